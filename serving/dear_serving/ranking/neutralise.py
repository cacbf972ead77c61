"""Takes from passages and queries what could pass for the prompt's own marks."""

from __future__ import annotations

import re

# An opening bracket before a number and a closing one after it, full-width forms included, apart from
# each other so that `[3, 4]`, `[3` and `3] > [1` are covered too. `[3rd]` and `[a1]` hold no number.
_OPENING = re.compile(r"[\[［【](?=\s*+\d++(?!\w))")
_CLOSING = re.compile(r"(?<!\w)(\d++\s{0,8})[\]］】]")
# Line breaks (also Unicode's) and control characters, NUL among them.
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]+")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


def neutralise(text: str) -> str:
    """Make text safe to stand inside a ranking prompt; ordinary text comes back unchanged.

    ``[3]`` becomes ``(3)`` so that it is no identifier, line breaks and control characters become one
    space so that a passage cannot end its own line, lone surrogates become U+FFFD. Control tokens such
    as ``<|eot_id|>`` are left to the tokenizer, which encodes passages without recognising them
    (vllm #31735).
    """
    text = _BREAKS.sub(" ", without_surrogates(text))
    return _CLOSING.sub(r"\1)", _OPENING.sub("(", text))


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no encoder takes, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)
