"""The base model's tokenizer, with the methods that the ranking layer needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dear_serving.errors import SettingsError
from dear_serving.ranking.template import render_without_chat_template

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast


# A batch is encoded on the thread that asks for it: how many threads work is the caller's decision.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class BaseTokenizer:
    """Implements ranking.prompts.Tokenizer over a Hugging Face fast tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import Tokenizer

        self._chat = tokenizer
        self._template: tokenizers.Tokenizer = tokenizer.backend_tokenizer
        # A second copy that encodes control tokens in its input as plain characters.
        self._untrusted: tokenizers.Tokenizer = Tokenizer.from_str(self._template.to_str())
        self._untrusted.encode_special_tokens = True
        begins_with_bos = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        self.bos_token_id = cast("int", tokenizer.bos_token_id) if begins_with_bos else None
        self.vocabulary: int = self._template.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """See the protocol."""
        return list(self._untrusted.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """See the protocol. Only encode_batch releases Python's lock, encode does not."""
        encodings = self._untrusted.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_cut(self, text: str, max_tokens: int) -> list[int]:
        """See the protocol."""
        encoding = self._untrusted.encode_batch([text], add_special_tokens=False)[0]
        count = len(encoding)
        end = min(max_tokens, count)
        # The bytes of one character share its offsets: step back while the cut would split one.
        while 0 < end < count and encoding.token_to_chars(end)[0] < encoding.token_to_chars(end - 1)[1]:
            end -= 1
        return list(encoding.ids[:end])

    def encode_template(self, text: str) -> list[int]:
        """See the protocol."""
        return list(self._template.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included."""
        return str(self._template.decode(list(token_ids), skip_special_tokens=False))

    def render_chat(self, turns: Sequence[dict[str, str]]) -> str:
        """See ranking.template.ChatRenderer; without a chat template, DeAR's ``[ROLE] content`` lines."""
        if self._chat.chat_template is None:
            return render_without_chat_template(turns)
        return cast(
            "str",
            self._chat.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True),
        )


def load_tokenizer(source: str, chat_template: Path | None = None) -> BaseTokenizer:
    """Load the tokenizer of a model folder or Hugging Face id.

    Raises:
        SettingsError: no tokenizer, not a fast one, or the chat template cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot load a tokenizer from {source}: {_first_line(error)}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SettingsError(f"the tokenizer of {source} is not a fast one (tokenizer.json)")
    if chat_template is not None:
        try:
            tokenizer.chat_template = chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"model.chat_template {chat_template}: {_first_line(error)}") from None
    return BaseTokenizer(tokenizer)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
