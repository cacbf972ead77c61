"""Chooses the strategy for requests that name none."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

from dear_serving.ranking.strategies import FIRST_STAGE, STRATEGIES
from dear_serving.ranking.strategies.cost import Cost, cost
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy
from dear_serving.types import StrategyName

PREFERENCE: tuple[StrategyName, ...] = ("joint", "blitz", "sliding", "tourrank", "merge2")
"""Strategies in order of preference, for more passages than one window holds.

Source: a noisy oracle on TREC DL 2019, as in benchmarks/simulation.py, and publications. Differences are
nDCG@10 points against sliding; the first value is for errors that mostly stick to passages, the second for
errors that are mostly new in every window:

- joint: -0.2 to +2.4 points for 100 passages, +0.8 to +3.7 for 50, more for a smaller top_n. It needs one
  round instead of nine (100 passages) or four (50), but 15 windows instead of 9, or 9 instead of 4.
- blitz: 0.0 to +0.3 points for 100 passages, in some 7 windows and three rounds. It is left out where it
  shows more passages than sliding, for less than three windows of them.
- sliding: listwise models were published with it.
- tourrank: -0.6 to +1.3 for 100 passages, in 13 windows and five rounds; equal to sliding in its paper.
- merge2: -1.5 to -3.4 for 100 passages, -0.5 to -0.7 for 50, and -1 even for top_n 1 of 100. So it comes
  last: its two rounds with the fewest windows are for deadlines that no other strategy can keep.
"""

PREFERENCE_FOR_LONG: tuple[StrategyName, ...] = ("funnel", "merge2")
"""The same for lists of more than LONG windows: strategies that show most passages once."""

SAVING: tuple[StrategyName, ...] = ("blitz", "sliding")
"""Strategies that read few tokens at sliding's quality or better. While engines are busy, the one of them
that shows the fewest passages is taken: sliding for little more than a window of passages."""

BUSY_LOOKS = 3
"""Looks of blitz while engines are busy. Source: the same oracle: +0.8, +0.4 and -0.5 points of nDCG@10
against joint (standard error 0.3) for 100 passages where 25, 58 and 90% of the error is new in every window,
with half of joint's passages shown."""

WITH_LOOKS = frozenset({"joint", "blitz"})
"""Strategies that can look more or less often."""

LONG = 50
"""Windows; 1,000 passages with the default window."""


class Choice(NamedTuple):
    """A strategy, why it was chosen (one short sentence for the reply, without a full stop), and its looks,
    None for its own number."""

    name: StrategyName
    reason: str
    looks: int | None = None


def choose(
    sizes: Sizes,
    deadline_s: float | None,
    latency: LatencyModel,
    passes: int = 1,
    *,
    is_busy: bool = False,
) -> Choice:
    """Choose ``single`` if the passages fit one window; else, while engines are busy, what reads the least
    of SAVING; else the first of PREFERENCE (for long lists, PREFERENCE_FOR_LONG). The estimated time has to
    fit the deadline; if none fits, the one with the shortest estimate is taken.

    Args:
        sizes: the sizes to plan for; must be legal.
        deadline_s: seconds left for the whole answer, None for no deadline.
        latency: observed round times. Without observations no estimate is made.
        passes: how many passes will run, see self_consistent.
        is_busy: whether the engines have more work than they get done soon.
    """
    if sizes.count <= sizes.window:
        return Choice("single", f"{sizes.count} passages fit one window of {sizes.window}")
    is_long = sizes.count > LONG * sizes.window
    preference = PREFERENCE_FOR_LONG if is_long else PREFERENCE
    excess = f"{sizes.count} passages over a window of {sizes.window}"
    if is_busy and not is_long:
        looks = {"blitz": BUSY_LOOKS}
        saving = {name: cost_of(name, sizes, passes, looks.get(name)) for name in SAVING}
        fitting = [
            name
            for name, cost in saving.items()
            if deadline_s is None or latency.estimate_s(cost) <= deadline_s
        ]
        if fitting:
            name = min(fitting, key=lambda name: saving[name].shown)
            words = f"{excess}; the engines are busy, {_words(saving[name])} save tokens"
            return Choice(name, words, looks.get(name))
    if deadline_s is None or not latency.known:
        name = preference[0]
        why = "no deadline to keep" if deadline_s is None else "no round timed yet"
        return Choice(name, f"{excess}; {why}, {_words(cost_of(name, sizes, passes))}")
    costs = {name: cost_of(name, sizes, passes) for name in preference}
    if not is_long and costs["blitz"].shown > costs["sliding"].shown:
        del costs["blitz"]  # for few passages more than a window holds
    for name, known in costs.items():
        if latency.estimate_s(known) <= deadline_s:
            fit = "1 round fits" if known.rounds == 1 else f"{known.rounds} rounds fit"
            return Choice(name, f"{excess}; {fit} the deadline")
    name = min(costs, key=lambda name: latency.estimate_s(costs[name]))
    return Choice(name, f"{excess}; no strategy fits the deadline, {name} comes closest")


def cost_of(name: StrategyName, sizes: Sizes, passes: int = 1, looks: int | None = None) -> Cost:
    """The cost of a strategy, by its public name, for all passes together.

    Only one pass is run: the others have the same rounds with as many windows (see self_consistent).
    """
    if name in FIRST_STAGE:
        return cost(start(name, sizes, passes))
    one = _cost_of_pass(name, sizes, looks)
    if passes == 1:
        return one
    return Cost(one.calls * passes, one.rounds, one.shown * passes, 0, one.needed * passes)


@lru_cache(maxsize=1024)
def _cost_of_pass(name: StrategyName, sizes: Sizes, looks: int | None) -> Cost:
    return cost(start(name, sizes, looks=looks))


def start(
    name: StrategyName, sizes: Sizes, passes: int = 1, looks: int | None = None, most: int | None = None
) -> Strategy:
    """A new run of a strategy, repeated over ``passes`` shuffled orders; ``looks`` and ``most`` are as the
    strategies have them, None for their own."""
    if name in FIRST_STAGE:
        return FIRST_STAGE[name](sizes, passes)
    given = {key: value for key, value in (("looks", looks), ("most", most)) if value is not None}
    make = partial(STRATEGIES[name], sizes, **given)
    return self_consistent(make, sizes.count, passes, top_n=sizes.top_n)


def _words(cost: Cost) -> str:
    """For example "15 windows in 1 round"."""
    return f"{cost.calls} windows in {cost.rounds} {'round' if cost.rounds == 1 else 'rounds'}"
