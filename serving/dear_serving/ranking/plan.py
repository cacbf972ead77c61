"""How a task will be ranked, and what that costs: decided once, before any work is taken on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dear_serving.errors import InvalidRequest
from dear_serving.ranking.prompts import TaskPrompts
from dear_serving.ranking.strategies import STRATEGIES
from dear_serving.ranking.strategies.auto import choose, cost_of
from dear_serving.ranking.strategies.cost import Cost
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy
from dear_serving.types import RankTask, StrategyName


@dataclass(frozen=True, slots=True)
class RankingPlan:
    """A strategy for one task.

    Args:
        strategy: its public name; ``reason`` says why it was taken, in one short sentence.
        sizes: of list and windows.
        passes: how many shuffled orders are ranked side by side.
        cost: of all passes together.
        prompt_tokens: about how many tokens the prompts of all windows have together.
    """

    strategy: StrategyName
    reason: str
    sizes: Sizes
    passes: int
    cost: Cost
    prompt_tokens: int

    def start(self) -> Strategy:
        """The strategy at its beginning."""
        make = partial(STRATEGIES[self.strategy], self.sizes)
        return self_consistent(make, self.sizes.count, self.passes, top_n=self.sizes.top_n)


def plan_ranking(
    task: RankTask, prompts: TaskPrompts, window_size: int, step: int, latency: LatencyModel
) -> RankingPlan:
    """Plan a task.

    Args:
        task: its own sizes, strategy and deadline come first.
        prompts: of the task.
        window_size, step: where the task names none.
        latency: what rounds of the model took lately.

    Raises:
        InvalidRequest: the task's step is over its window.
    """
    sizes = _sizes_of(task, window_size, step)
    strategy, reason = task.strategy, "asked for"
    if strategy == "auto":
        strategy, reason = choose(sizes, task.deadline_s, latency, task.passes)
    cost = cost_of(strategy, sizes, task.passes)
    widest = sizes.count if strategy == "single" else min(sizes.count, sizes.window)
    return RankingPlan(
        strategy=strategy,
        reason=reason,
        sizes=sizes,
        passes=task.passes,
        cost=cost,
        prompt_tokens=prompts.expected_tokens(widest, cost.calls, cost.shown),
    )


def _sizes_of(task: RankTask, window_size: int, step: int) -> Sizes:
    """The task's own numbers, else those given, the step at most half the window then."""
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
