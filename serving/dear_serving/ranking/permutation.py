"""Parses a permutation out of any text that a model wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dear_serving.types import Order, Repairs

_REASONING_END = "</think>"
# Every repetition in these patterns is bounded or possessive, because model output may be hostile and long.
_FINAL_MARKER = re.compile(
    r"final\s{1,8}(?:re-?)?rank(?:ing|ed\s{1,8}list)[^\w\[［【]{0,6}",
    re.IGNORECASE,
)
_MARKERS_TRIED = 3
# `\d` matches every Unicode decimal digit, as int() does; brackets may also be full-width or 【】.
_BRACKETED = re.compile(r"[\[［【]\s*+(\d++)\s*+[\]］】]")
_OPENING_HALF = re.compile(r"\s*+(\d++)\s*+[\]］】]")
_NUMBER = re.compile(r"(?<![\w.])\d++(?!\w|\.\d)")
_NAMED = re.compile(r"\b(?:passage|document|doc|text)s?[\s#]{0,8}(\d++)\b", re.IGNORECASE)
_LIST_MARKER = re.compile(r"^[ \t]*+\d++[.):][ \t]++(?=[^\d\n]*+\d)", re.MULTILINE)
# Allowed between two identifiers of one list: separators, bullets, list numbers and "and"; no other words.
_LINK = re.compile(r"(?:[\s>≻→,;|=*•–—-]|\b\d++[.):](?=\s)|\band\b)*+")
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of ``count`` passages and the repairs that were needed to get it.

    ``order`` holds 0-based passage indices, best first, and is always a permutation of ``range(count)``.
    Prints with the model's identifiers, as ``[4] > [1] > [0]``.
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
    """Read the ranking out of free text. Never fails: errors in the text are repaired and counted.

    Tries three parts of the text and takes the first that names passages: after the last final-ranking
    marker, after the last ``</think>``, all of it. Within a part it looks for bracketed identifiers
    (``[4] > [1]``, ``1. [4]`` lists, an opening ``4] > ...`` that continues a prompt ending in a bracket),
    then for ``passage 4``, then for bare numbers. A chain is a run of identifiers without words between them.
    If chains repeat passages (a draft, an explanation), the chain with the most passages is the ranking, the
    last one on a tie. Otherwise the chains are parts of one ranking. Out-of-range identifiers are dropped, so
    are repetitions after the first, and missing passages follow in input order. Takes linear time.

    Args:
        text: the model's output, any string.
        count: number of passages in the window, >= 0.
        first_identifier: the identifier of passage 0 in the prompt (0 or 1).

    Returns:
        A permutation of ``range(count)`` with its repairs; ``unparseable`` is 1 if the text has no identifier
        in range, and the order is then the input order.

    Source: forms seen in stored answers of RankGPT-style rankers (arXiv 2304.09542) and the targets of DeAR
    (arXiv 2508.16998).
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
    """The mentions of the ranking itself; reasoning is skipped if passages are named after it."""
    answer = text.rpartition(_REASONING_END)[2]
    markers = list(_FINAL_MARKER.finditer(answer))
    for marker in markers[: -_MARKERS_TRIED - 1 : -1]:
        mentions = _read(answer[marker.end() :], valid)
        # A single number may be prose: "this final ranking rests on 3 criteria".
        if _coverage(mentions, valid) >= min(2, len(valid)):
            return mentions
    mentions = _read(answer, valid)
    if _coverage(mentions, valid) or len(answer) == len(text):
        return mentions
    return _read(text, valid)


def _read(text: str, valid: range) -> list[_Mention]:
    """The mentions of the ranking, from the first kind of identifier that names any passage."""
    bracketed = list(_bracketed(text))
    for mentions in (bracketed, list(_matches(_NAMED, text))):
        if _coverage(mentions, valid):
            return _ranking(text, mentions, valid)
    # Blank list numbers instead of removing them, so that positions in the text stay the same.
    text = _LIST_MARKER.sub(lambda match: " " * len(match.group()), text)
    numbers = _fullest(list(_chains(text, _matches(_NUMBER, text))), valid)
    return numbers if _coverage(numbers, valid) else bracketed


def _ranking(text: str, mentions: list[_Mention], valid: range) -> list[_Mention]:
    """The fullest chain if the chains are versions of one ranking; all mentions if they are its parts."""
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
    """The number, or -1 (never a valid identifier) if it has too many digits."""
    return int(digits) if len(digits) <= _MAX_DIGITS else -1


def _chains(text: str, mentions: Iterable[_Mention]) -> Iterator[list[_Mention]]:
    """Split mentions wherever anything but separators is between two neighbours."""
    chain: list[_Mention] = []
    for mention in mentions:
        if chain and not _LINK.fullmatch(text, chain[-1].end, mention.start):
            yield chain
            chain = []
        chain.append(mention)
    if chain:
        yield chain


def _coverage(mentions: list[_Mention], valid: range) -> int:
    """The number of different passages named."""
    return len({mention.identifier for mention in mentions if mention.identifier in valid})
