"""The nouns every layer shares. Ranks and passage indices are 0-based inside the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Order = tuple[int, ...]
"""Passage indices, best first; always a permutation of ``range(len(order))``."""

Scoring = Literal["permutation", "generate", "first_token"]
"""How a window is read off the model: identifier by identifier, as free text, or from one forward pass."""


@dataclass(frozen=True, slots=True)
class RankTask:
    """What a caller wants ranked: one query and its candidate passages, in the caller's order.

    ``top_n`` is how many of the best are asked for (None: all). ``max_passage_tokens`` caps every passage
    before the budget is shared (None: no cap). ``deadline_s`` is the time left for the whole answer, in
    seconds (None: no deadline). With ``reasoning`` the model writes its reasoning before it ranks.
    """

    query: str
    passages: Sequence[str]
    top_n: int | None = None
    max_passage_tokens: int | None = None
    deadline_s: float | None = None
    priority: int = 0
    scoring: Scoring = "permutation"
    reasoning: bool = False

    @property
    def needed(self) -> int:
        """How many of the best are asked for, at most all."""
        return min(self.top_n or len(self.passages), len(self.passages))


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote for one prompt. Token counts are the engine's own, times are milliseconds.

    ``stop`` is the one of the request's stop strings that ended the text, which does not hold it.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    engine_ms: float
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """A window's order, decoded identifier by identifier.

    ``order`` holds positions in the window, best first: the first ``decided`` were chosen one after the
    other, the rest stand by their first-step log probabilities, equal ones as they were shown.
    ``log_probs[i]`` is the natural log of the probability that the model names position i first (its
    identifier's first token), before anything is masked. Token counts are the engine's own, times are
    milliseconds.
    """

    order: Order
    decided: int
    log_probs: tuple[float, ...]
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

    def plus_round(self, windows: Sequence[Sequence[Generation | DecodedWindow]]) -> Usage:
        """Add one round of windows that ran at the same time, each the runs it took, one after another."""
        runs = [run for window in windows for run in window]
        return Usage(
            self.prompt_tokens + sum(run.prompt_tokens for run in runs),
            self.completion_tokens + sum(run.completion_tokens for run in runs),
            self.queue_ms + max((sum(run.queue_ms for run in window) for window in windows), default=0.0),
            self.engine_ms + max((sum(run.engine_ms for run in window) for window in windows), default=0.0),
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
    """The answer to a RankTask: every passage's index, best first, and how it came about.

    ``scores`` go with ``order``: in (0, 1), strictly falling; what they mean says ``score_type`` (see
    ranking.scores). ``reasoning`` holds what the model wrote before each window it ranked.
    """

    order: Order
    scores: tuple[float, ...]
    score_type: str
    strategy: str
    strategy_reason: str
    windows: int
    rounds: int
    repairs: Repairs = Repairs()
    usage: Usage = Usage()
    warnings: tuple[str, ...] = field(default=())
    reasoning: tuple[str, ...] = ()
