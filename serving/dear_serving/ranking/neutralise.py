"""Removes text from passages and queries that a model could take for part of the prompt's structure."""

from __future__ import annotations

import re
from collections.abc import Callable

# An opening bracket before a number, a closing bracket after one, full-width forms included. They match
# separately, so that `[3, 4]`, `[3` and `3] > [1` are covered too. `[3rd]` and `[a1]` contain no number.
_OPENING = re.compile(r"[\[［【](?=\s*+\d++(?!\w))")
_CLOSING = re.compile(r"(?<!\w)(\d++\s{0,8})[\]］】]")
# Line breaks (Unicode's too) and control characters, including NUL.
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]+")
# Where a text may be cut so that its pieces become what the whole would: after all but a break, and beside
# brackets on their outer sides.
_AFTER_NO_BREAK = re.compile(r"(?<=[^\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029])")
_AROUND_BRACKETS = re.compile(r"(?<=[\]］】])|(?=[\[［【])")
# A few milliseconds at most: Python's lock is held while one piece is searched.
_PIECE_CHARS = 16_384
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def neutralise(text: str) -> str:
    """Make text safe inside a ranking prompt; ordinary text is returned unchanged.

    ``[3]`` becomes ``(3)``, so that it is not an identifier. Line breaks and control characters become one
    space, so that a passage cannot end its own line. Lone surrogates become U+FFFD. Control tokens such as
    ``<|eot_id|>`` stay: the tokenizer encodes passages without recognising them (vllm #31735).
    """
    text = _by_pieces(_AFTER_NO_BREAK, lambda piece: _BREAKS.sub(" ", without_surrogates(piece)), text)
    return _by_pieces(_AROUND_BRACKETS, lambda piece: _CLOSING.sub(r"\1)", _OPENING.sub("(", piece)), text)


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def _by_pieces(cuts: re.Pattern[str], change: Callable[[str], str], text: str) -> str:
    """``change`` of the text, in pieces if it is long, so that other threads get their turn."""
    if len(text) <= _PIECE_CHARS:
        return change(text)
    pieces: list[str] = []
    start = 0
    while start < len(text):
        cut = cuts.search(text, start + _PIECE_CHARS)
        end = cut.start() if cut else len(text)
        pieces.append(change(text[start:end]))
        start = end
    return "".join(pieces)
