"""A plan within a budget of prompt tokens."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import InvalidRequest
from dear_serving.ranking.plan import RankingPlan, plan_ranking, within_budget
from dear_serving.ranking.strategies.blitz import most_calls
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.types import Coverage, RankTask, StrategyName
from tests.ranking.oracles import as_shown, by, noisy, play

A_WINDOW, A_PASSAGE = 50, 80


def tokens(plan: RankingPlan) -> int:
    return plan.cost.calls * A_WINDOW + plan.cost.shown * A_PASSAGE


def task_of(count: int, top_n: int | None = 10, strategy: StrategyName = "auto", passes: int = 1) -> RankTask:
    return RankTask("query", ["text"] * count, top_n=top_n, strategy=strategy, passes=passes)


def planned(task: RankTask, most_tokens: int) -> RankingPlan:
    plan = plan_ranking(task, 20, 10, 2500, LatencyModel())
    return within_budget(plan, task, most_tokens, tokens)


def test_a_plan_within_the_budget_stays() -> None:
    task = task_of(100)
    plan = plan_ranking(task, 20, 10, 2500, LatencyModel())
    assert within_budget(plan, task, tokens(plan), tokens) is plan


@pytest.mark.parametrize(
    ("most_tokens", "strategy"),
    [(24_750, "joint"), (24_749, "blitz"), (11_149, "merge2"), (9_899, "funnel")],
)
def test_the_preferred_strategy_that_fits_is_taken(most_tokens: int, strategy: str) -> None:
    plan = planned(task_of(100), most_tokens)
    assert plan.strategy == strategy
    assert tokens(plan) <= most_tokens
    assert plan.unread == (0 if strategy != "funnel" else 100 - plan.sizes.count)


def test_ten_thousand_passages_go_through_a_funnel() -> None:
    task = task_of(10_000)
    plan = planned(task, 2_000_000)
    assert (plan.strategy, plan.cost.calls, plan.unread) == ("funnel", 580, 0)
    assert plan.coverage(task, 10_000) == Coverage(listwise=200, one_pass=9_800, unread=0)
    assert plan.warnings(2_000_000) == ()


def test_what_does_not_fit_follows_in_the_order_given() -> None:
    task = task_of(10_000)
    plan = planned(task, 500_000)
    read = plan.sizes.count
    assert tokens(plan) <= 500_000 < 1.1 * tokens(plan)
    assert plan.coverage(task, read) == Coverage(200, read - 200, 10_000 - read)
    assert plan.reason == f"the first {read} of 10000 passages fit the limit of 500000 prompt tokens"
    assert plan.warnings(500_000) == (
        f"max_prompt_tokens 500000: the last {10_000 - read} passages were not read and keep the order they "
        "had",
    )
    order, _ = play(plan.start(), by(range(9_999, -1, -1)))
    assert set(order[:5]) < set(range(read - 30, read))
    assert order[read:] == tuple(range(read, 10_000))


@given(st.integers(2, 3000), st.integers(1, 300_000), st.integers(1, 3), st.integers(0, 100))
def test_every_plan_fits_and_orders_all_or_says_why_not(
    count: int, most_tokens: int, passes: int, seed: int
) -> None:
    task = task_of(count, None, passes=passes)
    try:
        plan = planned(task, most_tokens)
    except InvalidRequest as error:
        assert most_tokens < passes * (A_WINDOW + 2 * A_PASSAGE) or error.param == "dear.passes"
        return
    assert tokens(plan) <= most_tokens
    order, batches = play(plan.start(), noisy(seed))
    spent = [len(window.passages) for batch in batches for window in batch.windows]
    assert len(spent) * A_WINDOW + sum(spent) * A_PASSAGE <= most_tokens
    assert sorted(order) == list(range(count))
    shown = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert shown == set(range(plan.sizes.count))
    coverage = plan.coverage(task, len(shown))
    assert coverage.listwise + coverage.one_pass + coverage.unread == count


@pytest.mark.parametrize("seed", range(20))
def test_a_forecast_that_was_too_low_keeps_the_budget(seed: int) -> None:
    task = task_of(100, strategy="blitz")
    forecast = tokens(plan_ranking(task, 20, 10, 2500, LatencyModel()))
    plan = planned(task, forecast + 3 * (A_WINDOW + 20 * A_PASSAGE))
    assert plan.most_calls == 10
    _, batches = play(planned(task, forecast).start(), noisy(seed))
    assert sum(len(batch.windows) for batch in batches) <= 7
    assert planned(task, 1_000_000).most_calls == most_calls(plan.sizes)
    assert plan_ranking(task, 20, 10, 7, LatencyModel()).most_calls == 7


@pytest.mark.parametrize(("strategy", "calls"), [("joint", 25), ("blitz", 10)])
def test_looks_are_the_strategys(strategy: StrategyName, calls: int) -> None:
    task = replace(task_of(100, strategy=strategy), looks=5)
    plan = plan_ranking(task, 20, 10, 2500, LatencyModel())
    _, batches = play(plan.start(), as_shown)
    assert plan.cost.calls == sum(len(batch.windows) for batch in batches) == calls


@pytest.mark.parametrize("strategy", ["auto", "sliding", "deepen"])
def test_looks_of_a_strategy_that_has_none_are_refused(strategy: StrategyName) -> None:
    task = replace(task_of(100, strategy=strategy), looks=2)
    message = f"dear.looks: blitz and joint have looks, not {strategy}"
    with pytest.raises(InvalidRequest, match=message) as caught:
        plan_ranking(task, 20, 10, 2500, LatencyModel())
    assert caught.value.param == "dear.looks"


def test_passages_that_no_window_showed_are_unread() -> None:
    task = task_of(100, strategy="deepen")
    plan = planned(task, 1_000_000)
    _, batches = play(plan.start(), as_shown)
    shown = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert plan.coverage(task, len(shown)) == Coverage(40, 0, 60)


def test_a_strategy_that_was_asked_for_is_not_replaced() -> None:
    message = "sliding takes some 14850 prompt tokens for 100 passages, the limit is 14849; strategy auto"
    with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
        planned(task_of(100, strategy="sliding"), 14_849)
    assert caught.value.param == "dear.max_prompt_tokens"


def test_a_budget_below_the_smallest_window_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="209 do not suffice for one window of two passages, some 210 "):
        planned(task_of(30), 209)
    assert planned(task_of(30), 210).sizes.count == 2


def test_first_token_scoring_is_one_pass_throughout() -> None:
    task = RankTask("query", ["text"] * 100, scoring="first_token")
    assert planned(task, 1_000_000).coverage(task, 100) == Coverage(0, 100, 0)
