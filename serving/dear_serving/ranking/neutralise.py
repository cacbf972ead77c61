"""Removes text from passages and queries that a model could take for part of the prompt's structure."""

from __future__ import annotations

import re

# An opening bracket before a number, a closing bracket after one, full-width forms included. They match
# separately, so that `[3, 4]`, `[3` and `3] > [1` are covered too. `[3rd]` and `[a1]` contain no number.
_OPENING = re.compile(r"[\[［【](?=\s*+\d++(?!\w))")
_CLOSING = re.compile(r"(?<!\w)(\d++\s{0,8})[\]］】]")
# Line breaks (Unicode's too) and control characters, including NUL.
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]+")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def neutralise(text: str) -> str:
    """Make text safe inside a ranking prompt; ordinary text is returned unchanged.

    ``[3]`` becomes ``(3)``, so that it is not an identifier. Line breaks and control characters become one
    space, so that a passage cannot end its own line. Lone surrogates become U+FFFD. Control tokens such as
    ``<|eot_id|>`` stay: the tokenizer encodes passages without recognising them (vllm #31735).
    """
    text = _BREAKS.sub(" ", without_surrogates(text))
    return _CLOSING.sub(r"\1)", _OPENING.sub("(", text))


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)
