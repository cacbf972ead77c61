"""Plans a task: strategy, sizes and cost, decided once, before admission."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace

from dear_serving.errors import InvalidRequest
from dear_serving.ranking.strategies import FIRST_STAGE
from dear_serving.ranking.strategies.auto import PREFERENCE, WITH_LOOKS, choose, cost_of, start
from dear_serving.ranking.strategies.blitz import most_calls
from dear_serving.ranking.strategies.cost import Cost
from dear_serving.ranking.strategies.funnel import head
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.windows import Sizes, Strategy
from dear_serving.types import Coverage, RankTask, StrategyName


@dataclass(frozen=True, slots=True)
class RankingPlan:
    """The strategy for one task, with its cost.

    Args:
        strategy: the strategy's public name.
        reason: why it was chosen, one short sentence.
        sizes: the sizes of list and windows.
        unread: passages at the list's end that are not ranked, and follow in the caller's order.
        passes: how many shuffled orders are ranked in parallel.
        cost: the cost of all passes together; a forecast where the strategy adapts to the orders.
        looks: how often it looks; None: the strategy's own number.
        most_calls: most windows of each pass, of a strategy that might take more than the forecast.
    """

    strategy: StrategyName
    reason: str
    sizes: Sizes
    passes: int
    cost: Cost
    unread: int = 0
    looks: int | None = None
    most_calls: int | None = None

    @property
    def widest(self) -> int:
        """Passages of the widest window."""
        if self.strategy == "single":
            return self.sizes.count
        shown = self.sizes.depth if self.strategy == "cascade" else self.sizes.count
        return min(shown, self.sizes.window)

    def start(self) -> Strategy:
        """A new run of the strategy."""
        strategy = start(self.strategy, self.sizes, self.passes, self.looks, self.most_calls)
        return _then_unread(strategy, self.sizes.count, self.unread)

    def warnings(self, most_tokens: int) -> tuple[str, ...]:
        """What was left out to stay within so many prompt tokens, one sentence."""
        if not self.unread:
            return ()
        passages = "1 passage was" if self.unread == 1 else f"{self.unread} passages were"
        return (f"max_prompt_tokens {most_tokens}: the last {passages} not read and keep the order they had",)

    def coverage(self, task: RankTask, shown: int) -> Coverage:
        """How the ranks were made; free text and first-token scoring are what the caller asked for.

        Args:
            task: what the plan was made for.
            shown: passages that windows showed, or would have but for the deadline; of those planned for, the
                others are unread, or have their first stage's score alone.
        """
        read = self.sizes.count
        alone = {"pointwise": read, "cascade": read - self.sizes.depth}.get(self.strategy, 0)
        planned = read - alone
        looked_at = min(planned, shown) if read > 1 else planned
        listwise = head(self.sizes) if self.strategy == "funnel" else looked_at
        if task.scoring == "first_token":
            listwise = 0
        left = planned - looked_at
        if self.strategy == "cascade":
            alone, left = alone + left, 0
        return Coverage(listwise, looked_at - listwise, self.unread + left, alone)


def check_stages(task: RankTask, *, has_first_stage: bool, is_pointwise: bool = False) -> RankTask:
    """The task, with strategy ``pointwise`` where its model can do nothing else.

    Args:
        task: as the caller gave it; its passages are whole documents.
        has_first_stage: whether the server has a first stage.
        is_pointwise: whether the task's own model is one that reads a passage alone.

    Raises:
        InvalidRequest: the strategy needs a first stage that is not there, the model ranks no windows, or an
            option does not go with the strategy.
    """
    strategy = task.strategy
    if is_pointwise and strategy not in ("auto", "pointwise"):
        raise InvalidRequest(
            f"dear.strategy: the model reads one passage at a time, and {strategy} shows several; leave it "
            'out, or ask another model for "cascade"',
            param="dear.strategy",
        )
    strategy = "pointwise" if is_pointwise else strategy
    if strategy in FIRST_STAGE and not (has_first_stage or is_pointwise):
        raise InvalidRequest(
            f"dear.strategy: {strategy} needs a first stage, and the server has none (first_stage in its "
            "settings)",
            param="dear.strategy",
        )
    depth = task.cascade_depth
    if depth is not None and strategy != "cascade":
        raise InvalidRequest(
            f'dear.cascade_depth: it goes with the strategy "cascade", not with {strategy}',
            param="dear.cascade_depth",
        )
    if depth is not None and depth > len(task.passages):
        raise InvalidRequest(
            f"dear.cascade_depth: {depth} are more than the {len(task.passages)} documents",
            param="dear.cascade_depth",
        )
    if strategy == "pointwise":
        for name, given in (
            ("reasoning", task.reasoning),
            ("passes", task.passes > 1),
            ("scoring", task.scoring == "generate"),
        ):
            if given:
                raise InvalidRequest(
                    f"dear.{name}: pointwise ranks no windows; each passage has one score",
                    param=f"dear.{name}",
                )
    return replace(task, strategy=strategy)


def plan_ranking(
    task: RankTask,
    window_size: int,
    step: int,
    max_windows: int,
    latency: LatencyModel,
    depth: int = 0,
    *,
    is_busy: bool = False,
) -> RankingPlan:
    """Plan a task by its sizes; no text is read.

    Args:
        task: its own sizes, strategy and deadline override the defaults.
        window_size: passages per window, if the task gives none.
        step: step of the sliding window, if the task gives none.
        max_windows: most windows of all passes together.
        latency: recent round times of the model.
        depth: how many passages a cascade ranks listwise, if the task does not say.
        is_busy: whether the engines have more work than they get done soon.

    Raises:
        InvalidRequest: the task's step is larger than its window, its strategy has no looks, or it needs too
            many windows.
    """
    sizes = _sizes_of(task, window_size, step, depth)
    strategy, reason, looks = task.strategy, "asked for", task.looks
    if looks is not None and strategy not in WITH_LOOKS:
        names = " and ".join(sorted(WITH_LOOKS))
        raise InvalidRequest(f"dear.looks: {names} have looks, not {strategy}", param="dear.looks")
    if strategy == "auto":
        strategy, reason, looks = choose(sizes, task.deadline_s, latency, task.passes, is_busy=is_busy)
    cost = cost_of(strategy, sizes, task.passes, looks)
    if cost.calls > max_windows:
        field = "dear.passes" if cost.calls <= max_windows * task.passes else "dear.window_size"
        raise InvalidRequest(
            f"{field}: {strategy} needs {cost.calls} windows for {sizes.count} passages, the limit is "
            f"{max_windows}; choose fewer passes, larger windows or another strategy",
            param=field,
        )
    most = max_windows // task.passes if strategy == "blitz" else None
    return RankingPlan(strategy, reason, sizes, task.passes, cost, looks=looks, most_calls=most)


def within_budget(
    plan: RankingPlan, task: RankTask, most_tokens: int, expected_tokens: Callable[[RankingPlan], int]
) -> RankingPlan:
    """The plan, if its prompts stay within ``most_tokens``. Else, for strategy ``auto``, the best one that
    does: another strategy for the whole list, or a funnel for as many of the first passages as fit.

    Args:
        plan: of ``plan_ranking``.
        task: what it was made for.
        most_tokens: prompt tokens of all windows.
        expected_tokens: estimates them.

    Raises:
        InvalidRequest: the caller's strategy, or the smallest window, takes more.
    """
    expected = expected_tokens(plan)
    if expected <= most_tokens:
        return _bounded(plan, most_tokens, expected_tokens)
    if task.strategy != "auto":
        raise InvalidRequest(
            f"dear.max_prompt_tokens: {plan.strategy} takes some {expected} prompt tokens for "
            f"{plan.sizes.count} passages, the limit is {most_tokens}; strategy auto fits itself to it",
            param="dear.max_prompt_tokens",
        )

    def planned(strategy: StrategyName, count: int, reason: str = "") -> RankingPlan:
        sizes = replace(plan.sizes, count=count, top_n=max(1, min(plan.sizes.top_n, count)))
        cost = cost_of(strategy, sizes, plan.passes)
        return RankingPlan(strategy, reason, sizes, plan.passes, cost, plan.sizes.count - count)

    whole = plan.sizes.count
    for strategy in (*PREFERENCE, "funnel"):
        reason = f"{whole} passages; {strategy} fits the limit of {most_tokens} prompt tokens"
        if expected_tokens(found := planned(strategy, whole, reason)) <= most_tokens:
            return _bounded(found, most_tokens, expected_tokens)
    # The first counts whose funnel fits; more passages take more tokens, but for rounding of windows.
    fitting = bisect_right(range(2, whole), most_tokens, key=lambda n: expected_tokens(planned("funnel", n)))
    if fitting == 0:
        raise InvalidRequest(
            f"dear.max_prompt_tokens: {most_tokens} do not suffice for one window of two passages, "
            f"some {expected_tokens(planned('funnel', 2))} tokens",
            param="dear.max_prompt_tokens",
        )
    reason = f"the first {fitting + 1} of {whole} passages fit the limit of {most_tokens} prompt tokens"
    return planned("funnel", fitting + 1, reason)


def _bounded(
    plan: RankingPlan, most_tokens: int, expected_tokens: Callable[[RankingPlan], int]
) -> RankingPlan:
    """The plan; if it may take more windows than forecast, at most as many as fit ``most_tokens``."""
    if plan.strategy != "blitz":
        return plan
    forecast, each = plan.cost.calls // plan.passes, plan.widest

    def tokens(more: int) -> int:
        calls = plan.cost.calls + more * plan.passes
        cost = replace(plan.cost, calls=calls, shown=plan.cost.shown + more * plan.passes * each)
        return expected_tokens(replace(plan, cost=cost))

    looks = {} if plan.looks is None else {"looks": plan.looks}
    more = range(most_calls(plan.sizes, **looks) - forecast + 1)
    most = forecast + bisect_right(more, most_tokens, key=tokens) - 1
    return replace(plan, most_calls=most if plan.most_calls is None else min(most, plan.most_calls))


def _then_unread(strategy: Strategy, read: int, unread: int) -> Strategy:
    order = yield from strategy
    return order + tuple(range(read, read + unread))


def _sizes_of(task: RankTask, window_size: int, step: int, depth: int) -> Sizes:
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
        depth=min(task.cascade_depth or depth, len(task.passages)),
    )
