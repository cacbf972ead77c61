"""Scores: in (0, 1], strictly falling, known rank by rank."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dear_serving.ranking.scores import FIRST_STEP, RANK, Scores


def from_probabilities(*probabilities: float) -> tuple[float, ...]:
    return tuple(math.log(one) if one else -math.inf for one in probabilities)


def prominence(probability: float, width: int) -> float:
    return probability / (probability + 1 / width)


def falls_within_bounds(scores: tuple[float, ...]) -> bool:
    falls = all(first > second for first, second in itertools.pairwise(scores))
    return falls and all(0 < score <= 1 for score in scores)


# By rank alone.


@pytest.mark.parametrize("count", [1, 2, 3, 10, 999, 1000, 1001, 2000, 10_000])
def test_without_a_decoded_window_the_rank_alone_counts(count: int) -> None:
    scores = Scores(count)
    assert scores.score_type == RANK == "rank"
    along = scores.along(range(count))
    assert along[0] == 1
    assert falls_within_bounds(along)
    assert along == pytest.approx([1 - rank / count for rank in range(count)], abs=1e-6)


def test_a_rank_score_does_not_depend_on_who_holds_the_rank() -> None:
    assert Scores(3).along([2, 0, 1]) == Scores(3).along([0, 1, 2])


def test_no_passages_have_no_scores() -> None:
    assert Scores(0).along([]) == ()


# From the first step.


def test_one_window_scores_by_prominence_and_a_hundredth_by_rank() -> None:
    scores = Scores(3)
    scores.observe((0, 1, 2), from_probabilities(0.7, 0.2, 0.1))
    assert scores.score_type == FIRST_STEP == "first_step"
    assert scores.along((0, 1, 2)) == pytest.approx(
        [
            0.99 * prominence(0.7, 3) + 0.01,
            0.99 * prominence(0.2, 3) + 0.01 * 2 / 3,
            0.99 * prominence(0.1, 3) + 0.01 * 1 / 3,
        ],
        abs=1e-6,
    )


def test_one_half_is_as_often_as_by_chance() -> None:
    scores = Scores(4)
    scores.observe(range(4), from_probabilities(0.25, 0.25, 0.25, 0.25))
    assert scores.along((0,)) == pytest.approx((0.99 * 0.5 + 0.01,), abs=1e-6)


def test_only_what_identifiers_share_among_themselves_counts() -> None:
    whole, thinned = Scores(2), Scores(2)
    whole.observe((0, 1), from_probabilities(0.75, 0.25))
    thinned.observe((0, 1), from_probabilities(0.003, 0.001))  # the model would rather write something else
    assert whole.along((0, 1)) == thinned.along((0, 1))


def test_no_passage_scores_over_one_ranked_before_it() -> None:
    scores = Scores(3)
    scores.observe((0, 1, 2), from_probabilities(0.7, 0.2, 0.1))
    first, second, third = scores.along((2, 0, 1))  # the model changed its mind after the first step
    assert first == pytest.approx(0.99 * prominence(0.1, 3) + 0.01, abs=1e-6)
    assert first > second > third > first - 0.01


def test_positions_in_a_window_are_those_of_its_passages() -> None:
    scores = Scores(4)
    scores.observe((3, 1), from_probabilities(0.8, 0.2))
    assert scores.along((3,)) == pytest.approx((0.99 * prominence(0.8, 2) + 0.01,), abs=1e-6)
    assert scores.along((1,)) == pytest.approx((0.99 * prominence(0.2, 2) + 0.01,), abs=1e-6)


def test_over_several_windows_the_log_odds_are_averaged() -> None:
    scores = Scores(5)
    scores.observe((0, 1), from_probabilities(0.8, 0.2))
    scores.observe((0, 2, 3, 4), from_probabilities(0.4, 0.3, 0.2, 0.1))
    odds = math.sqrt((0.8 * 2) * (0.4 * 4))  # odds of a prominence are p * w
    assert scores.along((0,)) == pytest.approx((0.99 * odds / (1 + odds) + 0.01,), abs=1e-6)


def test_the_order_of_windows_does_not_matter() -> None:
    windows = [((0, 1), from_probabilities(0.8, 0.2)), ((1, 0, 2), from_probabilities(0.5, 0.4, 0.1))]
    one, other = Scores(3), Scores(3)
    for passages, window in windows:
        one.observe(passages, window)
    for passages, window in reversed(windows):
        other.observe(passages, window)
    assert one.along((0, 1, 2)) == other.along((0, 1, 2))


def test_a_passage_that_no_window_showed_stands_as_the_one_before() -> None:
    scores = Scores(3)
    scores.observe((0, 1), from_probabilities(0.6, 0.4))
    first, unseen, second = scores.along((0, 2, 1))
    assert first - unseen == pytest.approx(0.01 / 3, abs=1e-6)
    assert unseen - second > 0.01 / 3
    assert scores.along((2,)) == (1.0,)  # nothing is known, and it is first


def test_a_copy_knows_the_same_and_learns_alone() -> None:
    scores = Scores(3)
    scores.observe((0, 1), from_probabilities(0.6, 0.4))
    before = scores.along((0, 1, 2))
    copy = scores.copy()
    assert (copy.score_type, copy.along((0, 1, 2))) == (FIRST_STEP, before)
    copy.observe((0, 1, 2), from_probabilities(0.1, 0.1, 0.8))
    assert copy.along((0, 1, 2)) != before
    assert scores.along((0, 1, 2)) == before
    assert Scores(3).copy().score_type == RANK


# Any window.

log_probs = st.lists(
    st.floats(max_value=0, allow_nan=False) | st.sampled_from([-math.inf, -1e308, -750.0, -1e-300, 0.0]),
    min_size=1,
    max_size=40,
)


@given(
    count=st.integers(2, 300) | st.sampled_from([999, 1000, 1001, 2000]),
    pool=log_probs,
    looks=st.integers(0, 4),
    head=st.integers(0, 2000),
    seed=st.integers(0, 10_000),
)
@example(count=2000, pool=[-math.inf], looks=2, head=10, seed=0)
@example(count=2000, pool=[0.0, -math.inf], looks=1, head=10, seed=0)
@example(count=2000, pool=[-1e308, 0.0], looks=3, head=1999, seed=1)
def test_scores_fall_strictly_and_do_not_change_as_more_is_ranked(
    count: int, pool: list[float], looks: int, head: int, seed: int
) -> None:
    generator = random.Random(seed)
    scores = Scores(count)
    for _ in range(looks):
        width = generator.randint(2, min(count, 128))
        passages = generator.sample(range(count), width)
        scores.observe(passages, [generator.choice(pool) for _ in passages])
    order = generator.sample(range(count), count)
    along = scores.along(order)
    assert len(along) == count
    assert falls_within_bounds(along)
    assert scores.along(order[:head]) == along[:head]
    assert scores.score_type == (FIRST_STEP if looks else RANK)


@pytest.mark.parametrize("count", [2, 128, 2000])
def test_scores_are_short_numbers(count: int) -> None:
    scores = Scores(count)
    scores.observe((0, 1), from_probabilities(1 / 3, 2 / 3))
    assert all(len(repr(score)) <= 10 for score in scores.along(range(count)))
