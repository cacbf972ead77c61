"""Plans a task: strategy, sizes and cost, decided once, before admission."""

from __future__ import annotations

from dataclasses import dataclass

from dear_serving.errors import InvalidRequest
from dear_serving.ranking.strategies.auto import choose, cost_of, start
from dear_serving.ranking.strategies.cost import Cost
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.windows import Sizes, Strategy
from dear_serving.types import RankTask, StrategyName


@dataclass(frozen=True, slots=True)
class RankingPlan:
    """The strategy for one task, with its cost.

    Args:
        strategy: the strategy's public name.
        reason: why it was chosen, one short sentence.
        sizes: the sizes of list and windows.
        passes: how many shuffled orders are ranked in parallel.
        cost: the cost of all passes together.
    """

    strategy: StrategyName
    reason: str
    sizes: Sizes
    passes: int
    cost: Cost

    @property
    def widest(self) -> int:
        """Passages of the widest window."""
        return self.sizes.count if self.strategy == "single" else min(self.sizes.count, self.sizes.window)

    def start(self) -> Strategy:
        """A new run of the strategy."""
        return start(self.strategy, self.sizes, self.passes)


def plan_ranking(
    task: RankTask, window_size: int, step: int, max_windows: int, latency: LatencyModel
) -> RankingPlan:
    """Plan a task by its sizes; no text is read.

    Args:
        task: its own sizes, strategy and deadline override the defaults.
        window_size: passages per window, if the task gives none.
        step: step of the sliding window, if the task gives none.
        max_windows: most windows of all passes together.
        latency: recent round times of the model.

    Raises:
        InvalidRequest: the task's step is larger than its window, or it needs too many windows.
    """
    sizes = _sizes_of(task, window_size, step)
    strategy, reason = task.strategy, "asked for"
    if strategy == "auto":
        strategy, reason = choose(sizes, task.deadline_s, latency, task.passes)
    cost = cost_of(strategy, sizes, task.passes)
    if cost.calls > max_windows:
        field = "dear.passes" if cost.calls <= max_windows * task.passes else "dear.window_size"
        raise InvalidRequest(
            f"{field}: {strategy} needs {cost.calls} windows for {sizes.count} passages, the limit is "
            f"{max_windows}; choose fewer passes, larger windows or another strategy",
            param=field,
        )
    return RankingPlan(strategy, reason, sizes, task.passes, cost)


def _sizes_of(task: RankTask, window_size: int, step: int) -> Sizes:
    """The task's own sizes, else the defaults; a default step is at most half the window."""
    window = task.window_size or window_size
    if task.step is not None and task.step > window:
        raise InvalidRequest(
            f"dear.step: {task.step} is over the window of {window}; passages would be left out",
            param="dear.step",
        )
    return Sizes(
        count=len(task.passages),
        window=window,
        step=task.step or min(step, max(1, window // 2)),
        top_n=task.needed,
    )
