"""Counts and names in sentences."""

from __future__ import annotations

from collections.abc import Iterable

_NAMED = 3


def named(ids: Iterable[str]) -> str:
    """The first few of many ids, and how many more there are."""
    every = list(ids)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 query``, ``2 queries``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def queries(count: int) -> str:
    """``1 query``, ``2 queries``."""
    return counted(count, "query", "queries")
