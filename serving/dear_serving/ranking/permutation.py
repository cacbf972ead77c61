"""From what a model wrote to a permutation, whatever it wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dear_serving.types import Order, Repairs

_REASONING_END = "</think>"
# Every repetition in these patterns is bounded or possessive: model output may be hostile and long.
_FINAL_MARKER = re.compile(
    r"final\s{1,8}(?:re-?)?rank(?:ing|ed\s{1,8}list)[^\w\[［【]{0,6}",
    re.IGNORECASE,
)
_MARKERS_TRIED = 3
# `\d` takes every Unicode decimal digit, as int() does; brackets also come full-width or as 【】.
_BRACKETED = re.compile(r"[\[［【]\s*+(\d++)\s*+[\]］】]")
_OPENING_HALF = re.compile(r"\s*+(\d++)\s*+[\]］】]")
_NUMBER = re.compile(r"(?<![\w.])\d++(?!\w|\.\d)")
_NAMED = re.compile(r"\b(?:passage|document|doc|text)s?[\s#]{0,8}(\d++)\b", re.IGNORECASE)
_LIST_MARKER = re.compile(r"^[ \t]*+\d++[.):][ \t]++(?=[^\d\n]*+\d)", re.MULTILINE)
# What may stand between two identifiers of one list: separators, bullets and list numbers, no words.
_LINK = re.compile(r"(?:[\s>≻→,;|=*•–—-]|\b\d++[.):](?=\s)|\band\b)*+")
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of ``count`` passages and what had to be mended to get it.

    ``order`` holds 0-based passage indices, best first, and is always a permutation of
    ``range(count)``. Prints in the identifiers the model used, as ``[4] > [1] > [0]``.
    """

    order: Order
    repairs: Repairs
    first_identifier: int = 0

    def __str__(self) -> str:
        return " > ".join(f"[{index + self.first_identifier}]" for index in self.order)


@dataclass(frozen=True, slots=True)
class _Mention:
    identifier: int
    start: int
    end: int


def parse_permutation(text: str, count: int, *, first_identifier: int) -> Permutation:
    """Read the ranking out of free text. Never fails: what cannot be read is mended and counted.

    Reads what follows the last final-ranking marker, else the last ``</think>``, else all of it: the first
    of these that names passages. Bracketed identifiers come first (``[4] > [1]``, ``1. [4]`` lists, an
    opening ``4] > ...`` that continues a prompt ending in a bracket), then ``passage 4``, then bare numbers.
    Where chains of them repeat each other (a draft, an explanation) the chain that names most passages is
    the ranking, the last on a tie; where they do not, they are pieces of one. Out-of-range identifiers
    are dropped, of repeated ones the first stays, missing passages follow in input order. Takes time
    linear in the length of the text.

    Args:
        text: what the model wrote, any string.
        count: number of passages in the window, >= 0.
        first_identifier: the identifier of passage 0 in the prompt (0 or 1).

    Returns:
        A permutation of ``range(count)`` with its repairs; ``unparseable`` is 1 when no identifier in
        range was found and the input order stands.

    Source: the shapes seen in stored answers of RankGPT-style rankers (arXiv 2304.09542) and the
    targets of DeAR (arXiv 2508.16998).
    """
    valid = range(first_identifier, first_identifier + count)
    mentions = _answer(text, valid)

    order: list[int] = []
    seen: set[int] = set()
    repeated = out_of_range = 0
    for mention in mentions:
        if mention.identifier not in valid:
            out_of_range += 1
        elif mention.identifier in seen:
            repeated += 1
        else:
            seen.add(mention.identifier)
            order.append(mention.identifier - first_identifier)
    missing = [index for index in range(count) if index + first_identifier not in seen]
    unparseable = count > 0 and not order
    repairs = Repairs(
        repeated=repeated,
        missing=0 if unparseable else len(missing),
        out_of_range=out_of_range,
        unparseable=int(unparseable),
    )
    return Permutation(tuple(order + missing), repairs, first_identifier)


def _answer(text: str, valid: range) -> list[_Mention]:
    """The mentions of the ranking itself, reasoning before it left aside where something follows it."""
    answer = text.rpartition(_REASONING_END)[2]
    markers = list(_FINAL_MARKER.finditer(answer))
    for marker in markers[: -_MARKERS_TRIED - 1 : -1]:
        mentions = _read(answer[marker.end() :], valid)
        # One number alone may be prose: "this final ranking rests on 3 criteria".
        if _coverage(mentions, valid) >= min(2, len(valid)):
            return mentions
    mentions = _read(answer, valid)
    if _coverage(mentions, valid) or len(answer) == len(text):
        return mentions
    return _read(text, valid)


def _read(text: str, valid: range) -> list[_Mention]:
    """The ranking's mentions, of the first kind of mention that names any passage."""
    bracketed = list(_bracketed(text))
    for mentions in (bracketed, list(_matches(_NAMED, text))):
        if _coverage(mentions, valid):
            return _ranking(text, mentions, valid)
    # Blanked, not removed, so that positions stay those of the text.
    text = _LIST_MARKER.sub(lambda match: " " * len(match.group()), text)
    numbers = _fullest(list(_chains(text, _matches(_NUMBER, text))), valid)
    return numbers if _coverage(numbers, valid) else bracketed


def _ranking(text: str, mentions: list[_Mention], valid: range) -> list[_Mention]:
    """One chain where chains are versions of one ranking, all mentions where they are pieces of it."""
    chains = list(_chains(text, mentions))
    fullest = _fullest(chains, valid)
    named = _coverage(mentions, valid)
    in_pieces = sum(_coverage(chain, valid) for chain in chains) == named
    return mentions if in_pieces or 2 * _coverage(fullest, valid) < named else fullest


def _fullest(chains: list[list[_Mention]], valid: range) -> list[_Mention]:
    return max(reversed(chains), key=lambda chain: _coverage(chain, valid), default=[])


def _bracketed(answer: str) -> Iterator[_Mention]:
    half = _OPENING_HALF.match(answer)
    if half:
        yield _Mention(_to_int(half.group(1)), half.start(), half.end())
    yield from _matches(_BRACKETED, answer)


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[_Mention]:
    for match in pattern.finditer(text):
        digits = match.group(1) if pattern.groups else match.group()
        yield _Mention(_to_int(digits), match.start(), match.end())


def _to_int(digits: str) -> int:
    """The number, or -1 (never a valid identifier) where it is too long to be one."""
    return int(digits) if len(digits) <= _MAX_DIGITS else -1


def _chains(text: str, mentions: Iterable[_Mention]) -> Iterator[list[_Mention]]:
    """Split mentions wherever something other than separators stands between two neighbours."""
    chain: list[_Mention] = []
    for mention in mentions:
        if chain and not _LINK.fullmatch(text, chain[-1].end, mention.start):
            yield chain
            chain = []
        chain.append(mention)
    if chain:
        yield chain


def _coverage(mentions: list[_Mention], valid: range) -> int:
    """How many different passages are named."""
    return len({mention.identifier for mention in mentions if mention.identifier in valid})
