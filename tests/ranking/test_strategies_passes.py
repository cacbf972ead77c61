"""Permutation self-consistency around any strategy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.strategies import ADAPTIVE, STRATEGIES
from dear_serving.ranking.strategies.cost import cost
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy, Window
from tests.ranking.oracles import as_shown, by, noisy, play, sizes_of_lists

NAMES = st.sampled_from(list(STRATEGIES))
PLANNED = st.sampled_from([name for name in STRATEGIES if name not in ADAPTIVE])


def of(name: str, sizes: Sizes, passes: int, seed: int = 0) -> Strategy:
    make = partial(STRATEGIES[name], sizes)
    return self_consistent(make, sizes.count, passes, seed, top_n=sizes.top_n)


@given(sizes_of_lists(), PLANNED, st.integers(1, 4))
def test_passes_multiply_the_calls_and_not_the_rounds(sizes: Sizes, name: str, passes: int) -> None:
    once = cost(STRATEGIES[name](sizes))
    more = cost(of(name, sizes, passes))
    assert (more.calls, more.rounds, more.shown) == (once.calls * passes, once.rounds, once.shown * passes)


@given(sizes_of_lists(), st.sampled_from(sorted(ADAPTIVE)), st.integers(2, 3), st.integers(0, 99))
def test_passes_that_adapt_go_on_until_the_longest_ends(
    sizes: Sizes, name: str, passes: int, seed: int
) -> None:
    once, alone = play(STRATEGIES[name](sizes), noisy(seed))
    order, merged = play(of(name, sizes, passes), noisy(seed))
    assert sorted(order) == sorted(once)
    assert len(merged) >= len(alone)
    for one, many in zip(alone, merged, strict=False):
        assert many.windows[: len(one.windows)] == one.windows


@given(sizes_of_lists(), NAMES, st.integers(0, 99))
def test_one_pass_is_the_strategy_itself(sizes: Sizes, name: str, seed: int) -> None:
    assert play(of(name, sizes, 1), noisy(seed)) == play(STRATEGIES[name](sizes), noisy(seed))


@given(sizes_of_lists(), PLANNED, st.integers(2, 3))
def test_the_first_pass_runs_on_the_given_order(sizes: Sizes, name: str, passes: int) -> None:
    _, alone = play(STRATEGIES[name](sizes), as_shown)
    _, merged = play(of(name, sizes, passes), as_shown)
    for one, many in zip(alone, merged, strict=True):
        assert many.windows[: len(one.windows)] == one.windows
        assert not many.leads


def test_the_other_passes_run_on_shuffles_that_the_seed_decides() -> None:
    def shown(seed: int) -> list[tuple[int, ...]]:
        _, (batch,) = play(of("single", Sizes(20, 20, 10, 20), 3, seed), as_shown)
        return [window.passages for window in batch.windows]

    first, second, third = shown(0)
    assert first == tuple(range(20))
    assert len({first, second, third}) == 3
    assert shown(0) == shown(0)
    assert shown(1)[1:] != shown(0)[1:]


def in_turn(*orders: Sequence[int]) -> object:
    """Ranks each of the windows to come by one of the given orders of passages, best first."""
    left = iter(orders)

    def decide(window: Window) -> Sequence[int]:
        return by(next(left))(window)

    return decide


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([(0, 1, 2, 3), (2, 0, 1, 3)], (0, 2, 1, 3)),  # ranks 1, 3, 2, 6
        ([(3, 2, 1, 0), (3, 0, 1, 2)], (3, 2, 1, 0)),  # ranks 4, 4, 4, 0: equal ones as in the first
        ([(0, 1, 2, 3), (3, 1, 2, 0), (3, 1, 0, 2)], (1, 3, 0, 2)),  # ranks 5, 3, 7, 3
    ],
)
def test_passages_come_by_mean_rank_then_as_in_the_first_pass(
    orders: list[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    strategy = of("single", Sizes(4, 20, 10, 4), len(orders), seed=3)
    assert play(strategy, in_turn(*orders))[0] == expected


def test_ranks_from_top_n_on_count_alike() -> None:
    orders = [(0, 1, 2, 3, 4), (4, 1, 3, 2, 0)]
    strategy = of("single", Sizes(5, 20, 10, 2), 2)
    # Capped at 2: passages 0 and 4 have 2, passage 1 has 2, passages 2 and 3 have 4.
    order, _ = play(strategy, in_turn(*orders))
    assert order == (0, 1, 4, 2, 3)


@given(sizes_of_lists(), PLANNED, st.integers(2, 4), st.integers(0, 99))
def test_shuffled_passes_that_came_back_as_shown_have_no_vote(
    sizes: Sizes, name: str, passes: int, seed: int
) -> None:
    truth = list(range(sizes.count))[::-1]
    alone, batches = play(STRATEGIES[name](sizes), by(truth))
    heads = [len(batch.windows) for batch in batches]
    strategy = of(name, sizes, passes, seed)
    answer: list[tuple[int, ...]] | None = None
    rounds = iter(heads)
    try:
        while True:
            batch = next(strategy) if answer is None else strategy.send(answer)
            ranked = next(rounds)
            answer = [
                tuple(by(truth)(window) if index < ranked else as_shown(window))
                for index, window in enumerate(batch.windows)
            ]
    except StopIteration as done:
        assert done.value == alone


def test_a_shuffled_pass_that_lost_only_some_windows_votes() -> None:
    sizes = Sizes(40, 20, 20, 40)
    truth = list(range(40))[::-1]
    strategy = of("sliding", sizes, 2)
    batch = next(strategy)
    batch = strategy.send([tuple(by(truth)(batch.windows[0])), tuple(as_shown(batch.windows[1]))])
    with pytest.raises(StopIteration) as done:
        strategy.send([tuple(by(truth)(window)) for window in batch.windows])
    assert done.value.value != play(STRATEGIES["sliding"](sizes), by(truth))[0]


def test_passes_average_noise_away() -> None:
    import random

    generator = random.Random(5)

    def decide(window: Window) -> Sequence[int]:
        worth = [passage + generator.gauss(0, 8) for passage in window.passages]
        return sorted(range(len(worth)), key=worth.__getitem__)

    def misplaced(passes: int) -> int:
        orders = [play(of("single", Sizes(20, 20, 10, 20), passes, seed), decide)[0] for seed in range(30)]
        return sum(abs(rank - passage) for order in orders for rank, passage in enumerate(order))

    assert misplaced(8) < 0.6 * misplaced(1)


def test_no_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="passes must be at least 1, got 0"):
        of("single", Sizes(4, 20, 10, 4), 0)
