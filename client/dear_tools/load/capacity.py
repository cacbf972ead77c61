"""The search for the capacity: the highest rate at which the objective still holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from dear_tools.load.generator import Generator
from dear_tools.load.loadtest import LoadTest, Outcome, View, run
from dear_tools.load.objective import Objective
from dear_tools.load.records import Record
from dear_tools.load.schedule import Arrivals, Schedule, Stage
from dear_tools.load.summary import is_good

GENERATOR_LIMIT = 0.9
"""From this share of a core on, the generator (one thread) may be the bottleneck."""

_MOST_STEPS = 30
_MOST_HALVINGS = 5
_LEAST_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried."""

    rate: float
    end: Literal["held", "broke", "cut", "stopped"]
    """``cut``: ended when the objective could not be met any more; ``stopped``: by the user."""
    outcome: Outcome

    @property
    def held(self) -> bool:
        """Whether the objective was met."""
        return self.end == "held"

    @property
    def is_generators_limit(self) -> bool:
        """Whether it broke because the load generator cannot send more."""
        return self.end in ("broke", "cut") and self.outcome.summary.generator_cpu > GENERATOR_LIMIT


@dataclass(frozen=True, slots=True)
class Search:
    """How the rate is found.

    Rates double from ``first_rate`` until one breaks the objective (or halve until one holds), then the gap
    is halved until the last that held and the first that broke are within ``precision`` of each other.

    Args:
        duration_s: of each step, after its ``warmup_s``; longer where fewer than 20 requests would be due.
        precision: as a share of the rate.
    """

    first_rate: float
    duration_s: float
    arrivals: Arrivals = "poisson"
    warmup_s: float = 0.0
    precision: float = 0.1

    def next_rate(self, steps: list[tuple[float, bool]]) -> float | None:
        """The rate to try after those tried, each with whether it held; None when the search is over."""
        if not steps:
            return self.first_rate
        held = max((rate for rate, holds in steps if holds), default=0.0)
        broke = min((rate for rate, holds in steps if not holds and rate > held), default=None)
        if len(steps) >= _MOST_STEPS or (not held and len(steps) > _MOST_HALVINGS):
            return None
        if broke is None:
            return 2 * held
        if held and broke - held <= self.precision * held:
            return None
        return (held + broke) / 2 if held else broke / 2


async def find_capacity(
    test: LoadTest, search: Search, view: View, watch: Callable[[Record, Generator], None]
) -> AsyncIterator[Step]:
    """The steps of a search, as they are done. Each begins when the one before has all its answers.

    Ends early where the objective breaks at the generator's own limit, or when it is stopped. ``watch`` is
    that of loadtest.run.
    """
    tried: list[tuple[float, bool]] = []
    while (rate := search.next_rate(tried)) is not None:
        stage = Stage(max(search.duration_s, _LEAST_REQUESTS / rate), rate, rate)
        schedule = Schedule("open", (stage,), search.arrivals, warmup_s=search.warmup_s)
        cutter = _Cutter(test.objective, stage.total)

        def watch_both(record: Record, generator: Generator, cutter: _Cutter = cutter) -> None:
            watch(record, generator)
            cutter.watch(record, generator)

        outcome = await run(test, schedule, view, watch=watch_both)
        step = Step(rate, _end_of(outcome, cutter), outcome)
        tried.append((rate, step.held))
        yield step
        if outcome.was_stopped or step.is_generators_limit:
            return


def _end_of(outcome: Outcome, cutter: _Cutter) -> Literal["held", "broke", "cut", "stopped"]:
    if cutter.has_cut:
        return "cut"
    if outcome.was_stopped:
        return "stopped"
    return "held" if outcome.summary.objective_met else "broke"


class _Cutter:
    """Stops a step as soon as it has more misses than its objective allows of all its requests."""

    def __init__(self, objective: Objective, expected: float) -> None:
        self.has_cut = False
        self._objective = objective
        # Poisson arrivals vary: half as many again may come.
        self._allowed = (1 - objective.percent / 100) * 1.5 * expected + 2
        self._misses = 0

    def watch(self, record: Record, generator: Generator) -> None:
        """See loadtest.run."""
        self._misses += not is_good(record, self._objective)
        if self._misses > self._allowed and not self.has_cut:
            self.has_cut = True
            generator.stop()
