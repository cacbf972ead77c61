"""Builds the demo tokenizer: byte-level BPE over the English words in english.txt.

It cuts text as Llama 3 does where it matters here: numbers of up to three digits stay whole before
merging and 0..100 are one token each, as are "[", " [", "]" and " >". The merge of a space and a
letter always comes first, and every merge that begins a word exists for its capitalised form too,
so "Light" is cut as "light" is and the two differ in their first token alone. Deterministic.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

ENGLISH = Path(__file__).with_name("english.txt")
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
HEADER_START, HEADER_END, TURN_END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL_TOKENS = (BEGIN, END, HEADER_START, HEADER_END, TURN_END)
WORD_MERGES = 1650
SPACE, NEWLINE = "Ġ", "Ċ"  # how byte-level BPE writes the bytes 0x20 and 0x0A
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PATTERN = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]|\s+"
SPACED_PUNCTUATION = "[>(\"'-<&$*/+=#:"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

Merge = tuple[str, str]


def byte_symbols() -> list[str]:
    """The 256 printable characters of byte-level BPE, in byte order (GPT-2's table)."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(kept))
    return [table[byte] for byte in range(256)]


@cache
def english_words() -> tuple[str, ...]:
    """All words of english.txt, lower case, in file order, the function words first."""
    return tuple(ENGLISH.read_text(encoding="utf-8").split())


def word_weights() -> Counter[str]:
    """How much each word counts when merges are chosen: words of the prompts and function words most."""
    lines = ENGLISH.read_text(encoding="utf-8").splitlines()
    weights: Counter[str] = Counter()
    for line, weight in zip(lines, (30, 4, 4, 4, 60), strict=True):
        for word in line.split():
            weights[word] = max(weights[word], weight)
    return weights


def word_merges(limit: int) -> list[Merge]:
    """The first `limit` merges, in order, learned on " word" for every English word."""
    words = {(SPACE + word[0], *word[1:]): weight for word, weight in sorted(word_weights().items())}
    merges: list[Merge] = []
    while len(merges) < limit:
        pairs: Counter[Merge] = Counter()
        for symbols, weight in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += weight
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {_merged(symbols, best): weight for symbols, weight in words.items()}
    return merges


def _merged(symbols: tuple[str, ...], pair: Merge) -> tuple[str, ...]:
    out: list[str] = []
    position = 0
    while position < len(symbols):
        if symbols[position : position + 2] == pair:
            out.append(pair[0] + pair[1])
            position += 2
        else:
            out.append(symbols[position])
            position += 1
    return tuple(out)


def all_merges() -> list[Merge]:
    """Every merge in order: separators, whole numbers, then words, lower case and capitalised."""
    merges: list[Merge] = [(NEWLINE, NEWLINE)]
    merges += [(SPACE, mark) for mark in SPACED_PUNCTUATION]
    merges += [(str(n // 10), str(n % 10)) for n in range(10, 100)] + [("10", "0")]
    merges += [(SPACE, letter) for letter in LETTERS + LETTERS.upper()]
    for left, right in word_merges(WORD_MERGES):
        merges.append((left, right))
        if left.startswith(SPACE):
            merges.append((SPACE + left[1:].capitalize(), right))
    return merges


def tokenizer_document() -> dict[str, object]:
    """The whole of tokenizer.json; identifiers: special tokens, bytes, then merges in order."""
    merges = all_merges()
    tokens = [*SPECIAL_TOKENS, *byte_symbols()]
    tokens += list(dict.fromkeys(left + right for left, right in merges))
    added = [
        {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for index, token in enumerate(SPECIAL_TOKENS)
    ]
    begin = {"SpecialToken": {"id": BEGIN, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
    pre_tokenizers = [split | {"invert": False}, byte_level | {"use_regex": False}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, second],
            "special_tokens": {BEGIN: {"id": BEGIN, "ids": [0], "tokens": [BEGIN]}},
        },
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [list(merge) for merge in merges],
        },
    }


def write_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which AutoTokenizer and vLLM load."""
    config = {
        "backend": "tokenizers",
        "tokenizer_class": "TokenizersBackend",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("tokenizer.json", tokenizer_document()),
        ("tokenizer_config.json", config),
    ):
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
