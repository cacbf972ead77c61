"""Two tokenizers: the tiny model's own, and a small one that splits text as Llama 3 does."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from dear_serving.gateway.tokenizer import BaseTokenizer

BOS = "<|begin_of_text|>"
CONTROLS = [BOS, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# The pre-tokenizer of Llama 3's tokenizer.json.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SENTENCES = [
    "I will provide you with passages, each indicated by a number identifier [].\n\n[0] [1] [2]\n[3]",
    "Rank the passages above based on their relevance to the search query. Output the ranking.\n\n",
    "Search Query: when did Thomas Edison invent the light bulb?.\nThe light bulb (1879) isn't new...\n",
    'Das Licht über München, naïve café; 東京の光! "Quoted" words?!\n [4] > [1] > [0]  two  spaces',
]


def wrap(tokenizer: Tokenizer, chat_template: str | None) -> PreTrainedTokenizerFast:
    """As transformers loads it, with Llama 3's names for the control tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token="<|end_of_text|>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def merging_tokenizer() -> BaseTokenizer:
    """One that has tokens such as "[1", since nothing splits text before it merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(CONTROLS) + 256 + 10,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROLS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([f"[{number}" for number in range(10)] * 20, trainer)
    return BaseTokenizer(wrap(tokenizer, LLAMA3_CHAT))


@pytest.fixture(scope="session")
def llama3_backend() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROLS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    begin = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    tokenizer.post_processor = Sequence([ByteLevel(trim_offsets=True), begin])
    return tokenizer


@pytest.fixture(scope="session")
def llama3(llama3_backend: Tokenizer) -> BaseTokenizer:
    return BaseTokenizer(wrap(llama3_backend, LLAMA3_CHAT))


@pytest.fixture(scope="session")
def without_chat_template(llama3_backend: Tokenizer) -> BaseTokenizer:
    return BaseTokenizer(wrap(llama3_backend, None))


@pytest.fixture(scope="session")
def demo(tokenizer: BaseTokenizer) -> BaseTokenizer:
    return tokenizer


@pytest.fixture(scope="session", params=["demo", "llama3", "without_chat_template"])
def either(request: pytest.FixtureRequest) -> BaseTokenizer:
    """Each tokenizer in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, BaseTokenizer)
    return found
