"""What windows.py promises of every strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.strategies import STRATEGIES, blitz, deepen, funnel, joint
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy
from tests.ranking.oracles import as_shown, by, guessing_the_rest, noisy, play, sizes_of_lists


def twice(sizes: Sizes) -> Strategy:
    return self_consistent(partial(STRATEGIES["sliding"], sizes), sizes.count, 2, top_n=sizes.top_n)


def thrice(sizes: Sizes) -> Strategy:
    return self_consistent(partial(STRATEGIES["tourrank"], sizes), sizes.count, 3, 7, top_n=sizes.top_n)


def blitz_twice(sizes: Sizes) -> Strategy:
    return self_consistent(partial(blitz, sizes), sizes.count, 2, top_n=sizes.top_n)


MAKERS = STRATEGIES | {
    "blitz, 1 look": partial(blitz, looks=1),
    "blitz twice": blitz_twice,
    "joint, 1 look": partial(joint, looks=1),
    "joint, 2 looks, final": partial(joint, looks=2, final=True),
    "sliding twice": twice,
    "tourrank thrice": thrice,
}
EVERY = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
Make = Callable[[Sizes], Strategy]
SEEDS = st.integers(0, 1000)


@EVERY
@given(sizes=sizes_of_lists(), seed=SEEDS)
def test_every_passage_is_shown_and_answered_once(make: Make, sizes: Sizes, seed: int) -> None:
    order, batches = play(make(sizes), noisy(seed))
    assert sorted(order) == list(range(sizes.count))
    if make is deepen:
        return  # it leaves passages unread: see its own tests
    shown = {passage for batch in batches for window in batch.windows for passage in window.passages}
    assert shown == (set(range(sizes.count)) if sizes.count > 1 else set())


@EVERY
@given(sizes=sizes_of_lists(), seed=SEEDS)
def test_windows_hold_distinct_passages_that_fit_and_need_some_of_them(
    make: Make, sizes: Sizes, seed: int
) -> None:
    _, batches = play(make(sizes), noisy(seed))
    most = sizes.count if make is STRATEGIES["single"] else sizes.window
    for batch in batches:
        assert batch.windows
        for window in batch.windows:
            assert 2 <= len(window.passages) == len(set(window.passages)) <= most
            assert 1 <= window.needed <= len(window.passages)


@pytest.mark.parametrize("make", [make for make in MAKERS.values() if make is not funnel])
@given(sizes=sizes_of_lists(), seed=SEEDS)
def test_the_first_top_n_stand_on_what_is_needed_alone(make: Make, sizes: Sizes, seed: int) -> None:
    sure, batches = play(make(sizes), noisy(seed))
    guessed, guessed_batches = play(make(sizes), guessing_the_rest(noisy(seed), seed))
    assert guessed[: sizes.top_n] == sure[: sizes.top_n]
    assert guessed_batches == batches


@EVERY
@given(sizes=sizes_of_lists())
def test_windows_sent_back_as_shown_leave_the_input_order(make: Make, sizes: Sizes) -> None:
    assert play(make(sizes), as_shown)[0] == tuple(range(sizes.count))


@EVERY
@given(sizes=sizes_of_lists(), seed=SEEDS)
def test_a_window_that_leads_is_alone_and_heads_the_final_order(make: Make, sizes: Sizes, seed: int) -> None:
    decide = noisy(seed)
    order, batches = play(make(sizes), decide)
    for batch in batches[:-1]:
        assert not batch.leads
    if batches and batches[-1].leads:
        (window,) = batches[-1].windows
        ranked = [window.passages[rank] for rank in decide(window)]
        assert list(order[: len(ranked)]) == ranked


@pytest.mark.parametrize("name", ["single", "sliding", "merge2", "tourrank"])
@pytest.mark.parametrize("count", [2, 20, 21, 100])
def test_strategies_that_end_in_one_window_lead_with_it(name: str, count: int) -> None:
    _, batches = play(STRATEGIES[name](Sizes(count, 20, 10, 1)), as_shown)
    assert [batch.leads for batch in batches] == [False] * (len(batches) - 1) + [True]


@EVERY
@given(sizes=sizes_of_lists(), seed=SEEDS)
def test_a_strategy_is_the_same_every_time(make: Make, sizes: Sizes, seed: int) -> None:
    assert play(make(sizes), noisy(seed)) == play(make(sizes), noisy(seed))


@EVERY
@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_passages_take_no_call(make: Make, count: int) -> None:
    assert play(make(Sizes(count, 20, 10, 1)), noisy(0)) == (tuple(range(count)), [])


@EVERY
def test_no_passages_may_be_asked_for_in_full(make: Make) -> None:
    assert play(make(Sizes(0, 20, 10, 0)), noisy(0)) == ((), [])


@EVERY
@pytest.mark.parametrize("count", [2, 7, 20])
def test_passages_that_fit_one_window_come_in_their_true_order(make: Make, count: int) -> None:
    truth = list(range(count))[::-1]
    assert list(play(make(Sizes(count, 20, 10, count)), by(truth))[0]) == truth


@EVERY
@pytest.mark.parametrize("window", [2, 3, 20, 100])
@pytest.mark.parametrize("top_n", [1, 2000])
def test_the_largest_lists_are_planned(make: Make, window: int, top_n: int) -> None:
    order, _ = play(make(Sizes(2000, window, window, top_n)), as_shown)
    assert order == tuple(range(2000))


LEGAL = Sizes(100, 20, 10, 10)
ILLEGAL = [
    ({"count": -1}, "count must be at least 0, got -1"),
    ({"window": 1}, "window must be at least 2, got 1"),
    ({"step": 0}, "step must be from 1 to the window of 20, got 0"),
    ({"step": 21}, "step must be from 1 to the window of 20, got 21"),
    ({"top_n": 0}, "top_n must be from 1 to the count of 100, got 0"),
    ({"top_n": 101}, "top_n must be from 1 to the count of 100, got 101"),
]


@EVERY
@pytest.mark.parametrize(("change", "message"), ILLEGAL, ids=[message for _, message in ILLEGAL])
def test_illegal_shapes_are_refused_at_once(make: Make, change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(dataclasses.replace(LEGAL, **change))
