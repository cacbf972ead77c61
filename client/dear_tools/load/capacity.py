"""Finding the knee: the highest rate at which the objective still holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from dear_tools.load.generator import Generator, Schedule
from dear_tools.load.objective import Objective
from dear_tools.load.records import Record
from dear_tools.load.stages import Arrivals, Stage
from dear_tools.load.summary import is_good
from dear_tools.load.trial import Outcome, Plan, View, run

_GENERATOR_LIMIT = 0.95
_MOST_STEPS = 30


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried. ``was_cut``: it was ended when the objective could not be met any more."""

    rate: float
    held: bool
    was_cut: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Search:
    """How the rate is found.

    Rates double from ``first_rate`` until one breaks the objective (or halve until one holds), then the gap
    is halved until the last that held and the first that broke are within ``precision`` of each other.

    Args:
        duration_s: of each step, after its ``warmup_s``.
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
        if len(steps) >= _MOST_STEPS or (not held and len(steps) >= 10):
            return None
        if broke is None:
            return 2 * held
        if held and broke - held <= self.precision * held:
            return None
        return (held + broke) / 2 if held else broke / 2


async def find_capacity(
    plan: Plan, search: Search, view: View, watch: Callable[[Record, Generator], None]
) -> AsyncIterator[Step]:
    """The steps of a search, as they are done. Each begins when the one before has all its answers.

    Ends early where the generator itself becomes the limit, or is stopped. ``watch`` as of trial.run.
    """
    tried: list[tuple[float, bool]] = []
    while (rate := search.next_rate(tried)) is not None:
        stage = Stage(search.duration_s, rate, rate)
        schedule = Schedule("open", (stage,), search.arrivals, warmup_s=search.warmup_s)
        cutter = _Cutter(plan.objective, rate * search.duration_s)

        def watch_both(record: Record, generator: Generator, cutter: _Cutter = cutter) -> None:
            watch(record, generator)
            cutter.watch(record, generator)

        outcome = await run(plan, schedule, view, watch=watch_both)
        held = outcome.summary.objective_met and not cutter.has_cut
        tried.append((rate, held))
        yield Step(rate, held, cutter.has_cut, outcome)
        if outcome.was_stopped or outcome.summary.generator_cpu > _GENERATOR_LIMIT:
            return


class _Cutter:
    """Stops a step as soon as it has more misses than its objective allows of all its requests."""

    def __init__(self, objective: Objective, expected: float) -> None:
        self.has_cut = False
        self._objective = objective
        # Poisson arrivals vary: half as many again may come.
        self._allowed = (1 - objective.percent / 100) * 1.5 * expected + 2
        self._misses = 0

    def watch(self, record: Record, generator: Generator) -> None:
        """See trial.run."""
        self._misses += not is_good(record, self._objective)
        if self._misses > self._allowed and not self.has_cut:
            self.has_cut = True
            generator.stop()
