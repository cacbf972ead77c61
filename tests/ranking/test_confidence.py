"""How sure an order is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.confidence import Evidence
from dear_serving.ranking.strategies import STRATEGIES
from dear_serving.ranking.windows import Sizes
from dear_serving.types import Sureness
from tests.ranking.oracles import by, noisy, play, sizes_of_lists

NAMES = st.sampled_from(list(STRATEGIES))


def logs(*probabilities: float) -> list[float]:
    return [math.log(one) for one in probabilities]


def test_one_window_votes_with_its_margin_and_its_decision() -> None:
    evidence = Evidence(3)
    evidence.observe([0, 1, 2], (1, 0, 2), 2, logs(0.3, 0.6, 0.1))
    first, second, last = evidence.along([1, 0, 2], 3)
    assert first == Sureness(pytest.approx((0.6 / 0.9 + 1) / 2, abs=1e-4), True)
    assert second == Sureness(pytest.approx((0.3 / 0.4 + 1) / 2, abs=1e-4), True)
    assert last == Sureness(None, True)


def test_a_decision_against_the_first_step_is_less_sure() -> None:
    evidence = Evidence(2)
    evidence.observe([0, 1], (0, 1), 1, logs(0.4, 0.6))
    assert evidence.along([0, 1], 1)[0].confidence == pytest.approx(0.7)


def test_ranks_that_were_not_decided_have_their_margin_alone() -> None:
    evidence = Evidence(3)
    evidence.observe([0, 1, 2], (0, 1, 2), 1, logs(0.5, 0.3, 0.2))
    assert evidence.along([0, 1, 2], 2)[1] == Sureness(0.6, False)


def test_windows_that_disagree_are_a_toss_up_and_prove_nothing() -> None:
    evidence = Evidence(2)
    evidence.observe([0, 1], (0, 1), 2, ())
    assert evidence.along([0, 1], 1) == (Sureness(1.0, True),)
    evidence.observe([1, 0], (0, 1), 2, ())
    assert evidence.along([0, 1], 1) == (Sureness(0.5, False),)
    evidence.observe([1, 0], (1, 0), 2, ())
    assert evidence.along([0, 1], 1) == (Sureness(pytest.approx(2 / 3, abs=1e-4), True),)


def test_passages_that_never_met_are_compared_by_their_odds_against_chance() -> None:
    evidence = Evidence(5)
    evidence.observe([0, 1], (0, 1), 2, logs(0.8, 0.2))
    evidence.observe([2, 3, 4], (0, 1, 2), 3, logs(0.5, 0.25, 0.25))
    # 0.8 over a chance of 1/2 against 0.5 over a chance of 1/3.
    assert evidence.along([0, 2, 1, 3, 4], 1) == (Sureness(pytest.approx(1.6 / 3.1, abs=1e-4), False),)
    assert Evidence(2).along([0, 1], 2) == (Sureness(0.5, False), Sureness(None, False))


def test_an_order_of_some_certifies_nothing() -> None:
    evidence = Evidence(2)
    evidence.observe([0, 1], (0, 1), 2, ())
    assert evidence.along([0], 1, proved=False) == (Sureness(None, False),)


@given(sizes_of_lists(max_count=60), NAMES, st.integers(0, 99))
def test_a_certified_place_is_the_true_one_if_nothing_contradicts_itself(
    sizes: Sizes, name: str, seed: int
) -> None:
    truth = sorted(range(sizes.count), key=lambda passage: (passage * 7919 + seed) % 101 * 1000 + passage)
    order, batches = play(STRATEGIES[name](sizes), by(truth))
    evidence = Evidence(sizes.count)
    for batch in batches:
        for window in batch.windows:
            evidence.observe(window.passages, tuple(by(truth)(window)), window.needed, ())
    for rank, one in enumerate(evidence.along(order, sizes.count)):
        assert one.confidence is None or 0 <= one.confidence <= 1
        assert not one.certified or order[rank] == truth[rank]


@given(sizes_of_lists(max_count=60), NAMES, st.integers(0, 99))
def test_every_rank_has_its_sureness_whatever_windows_say(sizes: Sizes, name: str, seed: int) -> None:
    decide = noisy(seed)
    order, batches = play(STRATEGIES[name](sizes), decide)
    evidence = Evidence(sizes.count)
    for batch in batches:
        for window in batch.windows:
            ranked = tuple(decide(window))
            evidence.observe(window.passages, ranked, window.needed, [-1.0] * len(ranked))
    found = evidence.along(order, sizes.top_n)
    assert len(found) == min(sizes.top_n, sizes.count)
    assert all(one.confidence is not None and 0 <= one.confidence <= 1 for one in found[:-1])


@pytest.mark.parametrize("name", ["single", "sliding", "blitz"])
def test_what_settles_the_head_certifies_it(name: str) -> None:
    truth = [(37 * place) % 101 for place in range(101) if (37 * place) % 101 < 100]
    order, batches = play(STRATEGIES[name](Sizes(100, 20, 10, 10)), by(truth))
    evidence = Evidence(100)
    for batch in batches:
        for window in batch.windows:
            evidence.observe(window.passages, tuple(by(truth)(window)), window.needed, ())
    assert [one.certified for one in evidence.along(order, 10)] == [True] * 10
