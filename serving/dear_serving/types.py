"""The types that every layer shares. Ranks and passage indices are 0-based inside the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def message(cls: type[T]) -> type[T]:
    """Have a dataclass pickled by the names of its fields, so that releases can talk during an upgrade: a
    field that the sender does not know has its default, one that the receiver does not know is left out.
    """

    def get_state(self: Any) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def set_state(self: Any, state: dict[str, Any]) -> None:
        for one in fields(self):
            if one.name in state:
                value = state[one.name]
            elif one.default is not MISSING:
                value = one.default
            elif one.default_factory is not MISSING:
                value = one.default_factory()
            else:
                raise ValueError(f"a {cls.__name__} of another release has no {one.name}")
            object.__setattr__(self, one.name, value)

    cls.__getstate__ = get_state  # type: ignore[method-assign]
    cls.__setstate__ = set_state  # type: ignore[attr-defined]
    return cls


Order = tuple[int, ...]
"""Passage indices, best first; always a permutation of ``range(len(order))``."""

Decoding = Literal["drafted", "resumable", "ordinary"]
"""How an engine decodes a window, always with the same result. ``drafted``: one request, whose forced and
guessed tokens are verified together, in less than a forward pass a passage. ``resumable``: one request that
vLLM continues choice by choice. ``ordinary``: a request for each choice, the slowest."""

Scoring = Literal["permutation", "generate", "first_token"]
"""How a window is decoded: identifier by identifier, as free text, or from one forward pass."""

StrategyName = Literal[
    "auto",
    "single",
    "sliding",
    "merge2",
    "joint",
    "tourrank",
    "funnel",
    "blitz",
    "deepen",
    "pointwise",
    "cascade",
]
"""How a list longer than one window is ranked; ``auto`` chooses by cost, deadline and load. ``pointwise`` and
``cascade`` take the server's first stage."""

InstructionPlace = Literal["template", "query"]
"""Where a prompt has the instruction: in the template's place for it, or at the end of the query."""

LongDocuments = Literal["cut", "max_passage"]
"""What counts of documents longer than a prompt shows: their beginning, or the best of their parts."""

OnProgress = Callable[[Order, tuple[float, ...]], None]
"""Called with the passages decided so far, best first, and their scores; each call adds passages."""

MAX_IDENTIFIERS = 128
"""Most passages in one window: vLLM returns the log probabilities of at most this many chosen tokens."""


@dataclass(frozen=True, slots=True)
class RankTask:
    """A whole rerank request: one query, its candidate passages in the caller's order, and every option.

    Args:
        model: public name of the model that ranks; None: the server's default.
        top_n: how many of the best passages the caller wants; None: all.
        max_passage_tokens: cap on the tokens of each passage; None: no cap.
        deadline_ms: milliseconds for the whole answer; None: no deadline.
        priority: waiting requests with a lower value run first.
        window_size: passages per window; None: the server's default.
        step: how far the window of ``sliding`` moves, in passages; None: the server's default.
        reasoning: whether the model writes its reasoning before it ranks.
        passes: how many shuffled orders are ranked and averaged, >= 1.
        instruction: what the order is for, in words; None or blank: none.
        max_prompt_tokens: most prompt tokens of all windows; None: the server's limit.
        long_documents: what of passages that are longer than a prompt shows counts.
        cascade_depth: how many of the first stage's best ``cascade`` ranks listwise; None: the server's
            default.
        explain: whether the ranking says when each window ran, and what was cut.
        confidence: whether to say how sure each rank is.
        looks: how often ``joint`` shows each passage, and ``blitz`` the head; None: 3 and 2.
    """

    query: str
    passages: Sequence[str]
    model: str | None = None
    top_n: int | None = None
    max_passage_tokens: int | None = None
    deadline_ms: int | None = None
    priority: int = 0
    strategy: StrategyName = "auto"
    window_size: int | None = None
    step: int | None = None
    scoring: Scoring = "permutation"
    reasoning: bool = False
    passes: int = 1
    instruction: str | None = None
    max_prompt_tokens: int | None = None
    long_documents: LongDocuments = "cut"
    cascade_depth: int | None = None
    explain: bool = False
    confidence: bool = False
    looks: int | None = None

    @property
    def needed(self) -> int:
        """``top_n`` as a number: at most the number of passages."""
        return min(self.top_n or len(self.passages), len(self.passages))

    @property
    def deadline_s(self) -> float | None:
        """The deadline in seconds."""
        return None if self.deadline_ms is None else self.deadline_ms / 1e3


@message
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and milliseconds of work in an engine. Token counts are the engine's own.

    Of a window decoded choice by choice, ``completion_tokens`` counts the tokens that the model chose, no
    forced ones. ``passes`` are the forward passes that gave tokens, ``drafted`` the forced and guessed tokens
    that were verified in them, ``accepted`` those that held.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float = 0.0
    engine_ms: float = 0.0
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, after: Usage) -> Usage:
        """Usage of two pieces of work done one after the other: all fields add up."""
        return Usage(
            self.prompt_tokens + after.prompt_tokens,
            self.completion_tokens + after.completion_tokens,
            self.queue_ms + after.queue_ms,
            self.engine_ms + after.engine_ms,
            self.passes + after.passes,
            self.drafted + after.drafted,
            self.accepted + after.accepted,
        )

    def work(self) -> dict[str, float]:
        """Tokens and milliseconds by name, for logs and traces."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "queue_ms": self.queue_ms,
            "engine_ms": self.engine_ms,
        }

    @staticmethod
    def side_by_side(usages: Iterable[Usage]) -> Usage:
        """Usage of work done at the same time: tokens add up, each time is the longest of the parts."""
        parts = list(usages)
        return Usage(
            sum(part.prompt_tokens for part in parts),
            sum(part.completion_tokens for part in parts),
            max((part.queue_ms for part in parts), default=0.0),
            max((part.engine_ms for part in parts), default=0.0),
            sum(part.passes for part in parts),
            sum(part.drafted for part in parts),
            sum(part.accepted for part in parts),
        )


@message
@dataclass(frozen=True, slots=True)
class Repairs:
    """How many repairs a model's answer needed, by kind; all zero for a clean answer."""

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
class Coverage:
    """How the ranks of an order were made, best ranks first: so many by listwise windows, then so many by one
    forward pass of a window alone, then so many by the first stage alone, then so many passages that were not
    read and keep the caller's order.
    """

    listwise: int
    one_pass: int = 0
    unread: int = 0
    pointwise: int = 0


@dataclass(frozen=True, slots=True)
class WindowTimes:
    """When a window ran, in milliseconds after its request arrived; windows of one ``round``, from 0, run at
    once. ``queue_ms`` of it the window waited for its turn. ``passages`` are those it showed, in that order.
    """

    round: int
    start_ms: float
    end_ms: float
    queue_ms: float
    passages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a ranking came about: its windows in the order they ended, those that the deadline ended included,
    the passages of which a part was not shown, and milliseconds from the request's arrival to its order.
    """

    total_ms: float
    windows: tuple[WindowTimes, ...]
    cut: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure a rank is; see ranking.confidence.

    Args:
        confidence: from 0 to 1, that the passage rightly stands before the next one; None: it is the last.
        certified: whether the windows leave this place alone to the passage.
    """

    confidence: float | None
    certified: bool


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to a RankTask: every passage's index, best first, and how it was computed.

    ``scores[i]`` belongs to ``order[i]``: in (0, 1), strictly falling. ``score_type`` says how they are
    computed (see ranking.scores). ``usage`` sums the rounds; a round's times are those of its slowest window.
    ``coverage`` is the plan's: what a deadline cut off is in ``warnings``. ``reasoning`` holds the model's
    reasoning for each window. ``model`` is the public name in the request, ``revision`` the revision that
    answered. ``parts`` counts the parts that long documents were split into, with the documents that were
    not; None: none were to be split. ``instruction`` says where the task's went, if it has one.
    ``explanation`` is there where the task asks for it. ``sureness[i]`` is of rank i, if the task asks for
    it: as many as were needed.

    ``first_stage`` is the revision that scored ``scored`` passages alone, "" if none did. Then
    ``first_scores[i]`` belongs to ``order[i]``: the first stage's probability that it is relevant, None if it
    was not scored in time.
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
    model: str = ""
    revision: str = ""
    instruction: InstructionPlace | None = None
    coverage: Coverage = Coverage(0)
    parts: int | None = None
    explanation: Explanation | None = None
    sureness: tuple[Sureness, ...] = ()
    first_stage: str = ""
    scored: int = 0
    first_scores: tuple[float | None, ...] = ()
