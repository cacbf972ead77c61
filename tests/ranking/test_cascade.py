"""The strategies that begin with the first stage's scores."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import InvalidRequest
from dear_serving.ranking.plan import RankingPlan, check_stages, plan_ranking, within_budget
from dear_serving.ranking.strategies import cascade, joint, pointwise
from dear_serving.ranking.strategies.auto import cost_of
from dear_serving.ranking.strategies.cost import Cost, cost
from dear_serving.ranking.strategies.latency import LatencyModel
from dear_serving.ranking.windows import Sizes, Window
from dear_serving.types import Coverage, RankTask
from tests.ranking.oracles import Decide, as_shown, by, noisy, play

SEEDS = st.integers(0, 1000)


@st.composite
def cascades(draw: st.DrawFn) -> Sizes:
    window = draw(st.integers(2, 40))
    count = draw(st.integers(1, 150))
    top_n, depth = draw(st.integers(1, count)), draw(st.integers(1, count))
    return Sizes(count, window, draw(st.integers(1, window)), top_n, depth)


def by_stage(first: Decide, second: Decide) -> Decide:
    """Decides the first stage's window with one, the listwise ones with the other."""
    return lambda window: (first if window.needed == 0 else second)(window)


@given(sizes=cascades(), seed=SEEDS, passes=st.integers(1, 3))
def test_a_cascade_is_a_permutation_whose_calls_and_rounds_its_cost_tells(
    sizes: Sizes, seed: int, passes: int
) -> None:
    order, (scores, *batches) = play(cascade(sizes, passes), noisy(seed))
    assert sorted(order) == list(range(sizes.count))
    assert scores.pointwise and scores.windows == (Window(tuple(range(sizes.count)), 0),)
    assert not any(batch.pointwise for batch in batches)
    windows = [window for batch in batches for window in batch.windows]
    assert (
        cost(cascade(sizes, passes))
        == cost_of("cascade", sizes, passes)
        == Cost(
            calls=len(windows),
            rounds=1 + len(batches),
            shown=sum(len(window.passages) for window in windows),
            lone_rounds=sum(len(batch.windows) == 1 for batch in batches),
            needed=sum(window.needed for window in windows),
            scored=sizes.count,
        )
    )
    assert len(batches) == (sizes.depth > 1)
    of_head = cost(joint(Sizes(sizes.depth, sizes.window, sizes.step, min(sizes.top_n, sizes.depth))))
    assert (len(windows), sum(len(window.passages) for window in windows)) == (
        passes * of_head.calls,
        passes * of_head.shown,
    )


@given(sizes=cascades(), seed=SEEDS)
def test_the_first_stage_decides_what_is_read_and_the_order_of_the_rest(sizes: Sizes, seed: int) -> None:
    scored = noisy(seed)(Window(tuple(range(sizes.count)), 0))
    order, (_, *batches) = play(cascade(sizes), by_stage(noisy(seed), noisy(seed + 1)))
    read = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert read == (set(scored[: sizes.depth]) if sizes.depth > 1 else set())
    assert list(order[sizes.depth :]) == list(scored[sizes.depth :])


@given(sizes=cascades(), seed=SEEDS)
def test_right_scores_and_right_windows_give_the_right_order(sizes: Sizes, seed: int) -> None:
    truth = noisy(seed)(Window(tuple(range(sizes.count)), 0))
    if sizes.depth <= sizes.window:
        assert list(play(cascade(sizes), by(truth))[0]) == list(truth)
    assert list(play(pointwise(sizes), by(truth))[0]) == list(truth)


@given(sizes=cascades(), seed=SEEDS, passes=st.integers(1, 3))
def test_windows_cut_off_by_the_deadline_keep_the_first_stages_order(
    sizes: Sizes, seed: int, passes: int
) -> None:
    scored = noisy(seed)(Window(tuple(range(sizes.count)), 0))
    assert list(play(cascade(sizes, passes), by_stage(noisy(seed), as_shown))[0]) == list(scored)


@given(sizes=cascades(), seed=SEEDS)
def test_a_window_of_a_cascade_that_leads_heads_the_final_order(sizes: Sizes, seed: int) -> None:
    decide = noisy(seed)
    order, (scores, *batches) = play(cascade(sizes), decide)
    assert not scores.leads
    for batch in batches:
        assert batch.leads == (len(batch.windows) == 1)
        if batch.leads:
            ranked = [batch.windows[0].passages[rank] for rank in decide(batch.windows[0])]
            assert list(order[: len(ranked)]) == ranked


def test_pointwise_takes_one_round_of_scores_and_a_lone_passage_too() -> None:
    for count in (1, 2, 500):
        sizes = Sizes(count, 20, 10, 1)
        assert cost(pointwise(sizes)) == Cost(0, 1, 0, 0, 0, scored=count)
    assert play(pointwise(Sizes(0, 20, 10, 0)), as_shown) == ((), [])
    assert play(cascade(Sizes(0, 20, 10, 0)), as_shown) == ((), [])


def plan(count: int, depth: int = 20, **options: Any) -> tuple[RankTask, RankingPlan]:
    task = RankTask("query", ["text"] * count, **options)
    return task, plan_ranking(task, 20, 10, 2500, LatencyModel(), depth)


def test_the_plan_has_the_servers_depth_or_the_requests_and_at_most_all() -> None:
    assert plan(100, strategy="cascade")[1].sizes.depth == 20
    assert plan(100, strategy="cascade", cascade_depth=30)[1].sizes.depth == 30
    assert plan(5, strategy="cascade")[1].sizes.depth == 5


def test_coverage_says_what_only_the_first_stage_read() -> None:
    task, cascaded = plan(100, strategy="cascade")
    assert cascaded.coverage(task, 20) == Coverage(listwise=20, one_pass=0, unread=0, pointwise=80)
    task, quick = plan(100, strategy="cascade", scoring="first_token")
    assert quick.coverage(task, 20) == Coverage(listwise=0, one_pass=20, unread=0, pointwise=80)
    task, alone = plan(100, strategy="pointwise")
    assert alone.coverage(task, 0) == Coverage(listwise=0, one_pass=0, unread=0, pointwise=100)


def test_a_cascade_over_the_budget_is_refused_and_names_it() -> None:
    task, cascaded = plan(100, strategy="cascade")
    with pytest.raises(InvalidRequest, match="cascade takes some 7 prompt tokens") as refused:
        within_budget(cascaded, task, 6, lambda _: 7)
    assert refused.value.param == "dear.max_prompt_tokens"


BAD = [
    ({"strategy": "cascade"}, False, False, "dear.strategy", "cascade needs a first stage"),
    ({"strategy": "pointwise"}, False, False, "dear.strategy", "pointwise needs a first stage"),
    ({"strategy": "sliding"}, True, True, "dear.strategy", "reads one passage at a time, and sliding shows"),
    ({"strategy": "cascade", "cascade_depth": 6}, True, False, "dear.cascade_depth", "6 are more than the 5"),
    ({"cascade_depth": 2}, True, False, "dear.cascade_depth", 'goes with the strategy "cascade"'),
    ({"strategy": "pointwise", "reasoning": True}, True, False, "dear.reasoning", "ranks no windows"),
    ({"strategy": "pointwise", "passes": 2}, True, False, "dear.passes", "ranks no windows"),
    ({"strategy": "pointwise", "scoring": "generate"}, True, False, "dear.scoring", "ranks no windows"),
]


@pytest.mark.parametrize(("options", "has_first_stage", "is_pointwise", "param", "said"), BAD)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], has_first_stage: bool, is_pointwise: bool, param: str, said: str
) -> None:
    task = RankTask("query", ["text"] * 5, **options)
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_stages(task, has_first_stage=has_first_stage, is_pointwise=is_pointwise)
    assert refused.value.param == param


def test_a_model_that_reads_one_passage_needs_no_strategy_and_no_first_stage() -> None:
    task = RankTask("query", ["text"] * 5)
    assert check_stages(task, has_first_stage=False, is_pointwise=True).strategy == "pointwise"
    assert check_stages(task, has_first_stage=True).strategy == "auto"
