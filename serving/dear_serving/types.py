"""The nouns every layer shares. Ranks and passage indices are 0-based inside the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Order = tuple[int, ...]
"""Passage indices, best first; always a permutation of ``range(len(order))``."""


@dataclass(frozen=True, slots=True)
class RankTask:
    """What a caller wants ranked: one query and its candidate passages, in the caller's order.

    ``max_passage_tokens`` caps every passage before the budget is shared (None: no cap).
    ``deadline_s`` is the time left for the whole answer, in seconds (None: no deadline).
    """

    query: str
    passages: Sequence[str]
    max_passage_tokens: int | None = None
    deadline_s: float | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote for one prompt. Token counts are the engine's own, times are milliseconds."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    engine_ms: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and time summed over windows; ``engine_ms`` and ``queue_ms`` are the slowest window of
    each round, added up, so that they compare with the wall time a caller sees."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float = 0.0
    engine_ms: float = 0.0

    def plus_round(self, round_: Sequence[Generation]) -> Usage:
        """Add one round of windows that ran at the same time."""
        return Usage(
            self.prompt_tokens + sum(g.prompt_tokens for g in round_),
            self.completion_tokens + sum(g.completion_tokens for g in round_),
            self.queue_ms + max((g.queue_ms for g in round_), default=0.0),
            self.engine_ms + max((g.engine_ms for g in round_), default=0.0),
        )


@dataclass(frozen=True, slots=True)
class Repairs:
    """How often a model's answer had to be mended, by kind; a clean answer has all zero."""

    repeated: int = 0
    missing: int = 0
    out_of_range: int = 0
    unparseable: int = 0

    def __add__(self, other: Repairs) -> Repairs:
        return Repairs(
            self.repeated + other.repeated,
            self.missing + other.missing,
            self.out_of_range + other.out_of_range,
            self.unparseable + other.unparseable,
        )

    def __bool__(self) -> bool:
        return bool(self.repeated or self.missing or self.out_of_range or self.unparseable)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to a RankTask: every passage's index, best first, and how it came about."""

    order: Order
    strategy: str
    windows: int
    rounds: int
    repairs: Repairs = Repairs()
    usage: Usage = Usage()
    warnings: tuple[str, ...] = field(default=())
