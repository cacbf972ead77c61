"""From what a model wrote to a permutation, whatever it wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dear_serving.types import Order, Repairs

_REASONING_END = "</think>"
_FINAL_MARKER = re.compile(r"final\s+(?:re-?)?rank(?:ing|ed\s+list)\W{0,6}", re.IGNORECASE)
# `\d` takes every Unicode decimal digit, as int() does; brackets also come full-width or as 【】.
_BRACKETED = re.compile(r"[\[［【]\s*(\d+)\s*[\]］】]")
_OPENING_HALF = re.compile(r"\s*(\d+)\s*[\]］】]")  # noqa: RUF001
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w]|\.\d)")
_NAMED = re.compile(r"\b(?:passage|document|doc|text)s?\s*#?\s*(\d+)\b", re.IGNORECASE)
_LIST_MARKER = re.compile(r"^[ \t]*\d+[.):][ \t]+(?=\D*\d)", re.MULTILINE)
# What may stand between two identifiers of one list: separators, bullets and list numbers, no words.
_LINK = re.compile(r"(?:[\s>≻→,;|=*•–—-]|\b\d+[.):](?=\s)|\band\b)*")  # noqa: RUF001
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

    The text after the last ``</think>`` or final-ranking marker is read. Of the chains of bracketed
    identifiers in it (``[4] > [1]``, ``1. [4]`` lists, an opening ``4] > ...`` that continues a prompt
    ending in a bracket) the one that names most passages wins, the last on a tie; without brackets,
    ``passage 4`` and then bare numbers are read the same way. Out-of-range identifiers are dropped, of
    repeated ones the first stays, missing passages follow in input order.

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
    answer = _answer_part(text)
    mentions = _best_chain(answer, valid)

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


def _answer_part(text: str) -> str:
    """What follows the reasoning: after the last ``</think>``, then after the last final marker."""
    answer = text.rpartition(_REASONING_END)[2]
    for marker in reversed(list(_FINAL_MARKER.finditer(answer))):
        tail = answer[marker.end() :]
        if any(character.isdecimal() for character in tail):
            # `Final Ranking: [4] > ...`: the pattern may have eaten the opening bracket.
            bracket = re.search(r"[\[［【]\s*$", marker.group())
            return (bracket.group() if bracket else "") + tail
    return answer


def _best_chain(answer: str, valid: range) -> list[_Mention]:
    """The mentions to read, from the first kind of mention that names any passage."""
    bracketed = list(_bracketed(answer))
    if _coverage(bracketed, valid):
        return _fullest_chain(answer, bracketed, valid)
    named = list(_matches(_NAMED, answer))  # `passage 4` stands in sentences: there are no chains
    if _coverage(named, valid):
        return named
    # Blanked, not removed, so that positions stay those of the text.
    bare_text = _LIST_MARKER.sub(lambda match: " " * len(match.group()), answer)
    return _fullest_chain(bare_text, list(_matches(_NUMBER, bare_text)), valid)


def _fullest_chain(text: str, mentions: list[_Mention], valid: range) -> list[_Mention]:
    chains = reversed(list(_chains(text, mentions)))
    return max(chains, key=lambda chain: _coverage(chain, valid), default=[])


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
