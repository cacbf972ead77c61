"""Strategies: which passages are shown together, and the order that comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dear_serving.ranking.windows import (
    STRATEGIES,
    Batch,
    Strategy,
    Window,
    choose,
    single,
    sliding,
)

Decide = Callable[[Window], Sequence[int]]


def as_shown(window: Window) -> Sequence[int]:
    return range(len(window))


def reversed_(window: Window) -> Sequence[int]:
    return range(len(window))[::-1]


def by(best_first: Sequence[int]) -> Decide:
    """An oracle: sorts every window by the true order of all passages."""
    truth = {passage: rank for rank, passage in enumerate(best_first)}
    return lambda window: sorted(range(len(window)), key=lambda shown: truth[window[shown]])


def run(strategy: Strategy, decide: Decide) -> tuple[tuple[int, ...], list[Batch]]:
    """The final order and all batches, each window decided by ``decide``."""
    batches: list[Batch] = []
    try:
        batch = next(strategy)
        while True:
            batches.append(batch)
            batch = strategy.send([tuple(decide(window)) for window in batch.windows])
    except StopIteration as done:
        return done.value, batches


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    window = draw(st.integers(2, 40))
    return draw(st.integers(0, 150)), window, draw(st.integers(1, window))


@settings(max_examples=200)
@given(sizes())
def test_sliding_shows_every_passage_in_windows_of_the_right_size(size: tuple[int, int, int]) -> None:
    count, window, step = size
    order, batches = run(sliding(count, window=window, step=step), reversed_)
    assert sorted(order) == list(range(count))
    shown = [one for batch in batches for one in batch.windows]
    for one in shown:
        assert len(one) == len(set(one)) == min(window, count)
    if count > 1:
        assert set().union(*shown) == set(range(count))


@settings(max_examples=200)
@given(sizes())
def test_sliding_makes_as_many_calls_as_it_says(size: tuple[int, int, int]) -> None:
    count, window, step = size
    _, batches = run(sliding(count, window=window, step=step), as_shown)
    expected = 0 if count < 2 else 1 + max(0, math.ceil((count - window) / step))
    assert [len(batch.windows) for batch in batches] == [1] * expected


@settings(max_examples=200)
@given(sizes(), st.randoms(use_true_random=False))
def test_sliding_brings_what_the_windows_overlap_by_to_the_head(
    size: tuple[int, int, int], random: object
) -> None:
    count, window, step = size
    truth = list(range(count))
    random.shuffle(truth)  # type: ignore[attr-defined]
    order, _ = run(sliding(count, window=window, step=step), by(truth))
    sure = count if count <= window else window - step
    assert list(order[:sure]) == truth[:sure]


@settings(max_examples=100)
@given(sizes())
def test_every_batch_carries_the_order_to_answer_with(size: tuple[int, int, int]) -> None:
    count, window, step = size
    assume(count > 1)
    order, batches = run(sliding(count, window=window, step=step), reversed_)
    assert batches[0].order_so_far == tuple(range(count))
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        start = batch.order_so_far.index(batch.windows[0][0])
        assert batch.order_so_far[start : start + window] == batch.windows[0]
        expected = list(batch.order_so_far)
        expected[start : start + window] = reversed(batch.windows[0])
        assert tuple(expected) == (order if following is None else following.order_so_far)


def test_sliding_ranks_the_head_when_step_does_not_divide() -> None:
    truth = list(range(25))[::-1]
    order, batches = run(sliding(25, window=20, step=10), by(truth))
    assert [batch.windows[0][0] for batch in batches] == [5, 0]
    assert set(range(5)) <= set(batches[1].windows[0])
    assert list(order[:10]) == truth[:10]


def test_sliding_moves_from_the_last_passages_to_the_first() -> None:
    order, batches = run(sliding(6, window=4, step=2), by([5, 4, 3, 2, 1, 0]))
    assert [batch.windows for batch in batches] == [((2, 3, 4, 5),), ((0, 1, 5, 4),)]
    assert order == (5, 4, 1, 0, 3, 2)


@pytest.mark.parametrize("count", [2, 7, 19, 20])
def test_passages_that_fit_one_window_take_one_call(count: int) -> None:
    truth = list(range(count))[::-1]
    for strategy in (single(count), sliding(count, window=20, step=10)):
        order, batches = run(strategy, by(truth))
        assert list(order) == truth
        assert [batch.windows for batch in batches] == [(tuple(range(count)),)]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_passages_take_no_call(count: int) -> None:
    for strategy in (single(count), sliding(count, window=20, step=10)):
        assert run(strategy, reversed_) == (tuple(range(count)), [])


@pytest.mark.parametrize(("window", "step"), [(20, 0), (20, -1), (20, 21), (1, 1), (0, 0), (-5, 1)], ids=str)
def test_sizes_that_would_leave_passages_unseen_are_refused(window: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"got {window} and {step}"):
        next(sliding(100, window=window, step=step))


@pytest.mark.parametrize(("name", "calls"), [("single", 1), ("sliding", 9)])
def test_strategies_are_found_by_name(name: str, calls: int) -> None:
    assert len(run(STRATEGIES[name](100, 20, 10), as_shown)[1]) == calls


@pytest.mark.parametrize(("count", "name"), [(0, "single"), (20, "single"), (21, "sliding")])
def test_one_window_is_chosen_while_the_passages_fit_it(count: int, name: str) -> None:
    assert choose(count, 20) == name
