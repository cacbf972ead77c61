"""Paired tests, against what can be counted by hand and what scipy says of the same differences."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dear_tools.evaluation.measures import compare, holm


def test_the_randomisation_test_is_exact_for_few_queries() -> None:
    before, after = [0.1, 0.5, 0.3, 0.9], [0.4, 0.6, 0.2, 1.0]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    observed = abs(sum(differences))
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    as_large = [
        abs(sum(s * d for s, d in zip(flip, differences, strict=True))) >= observed - 1e-12 for flip in signs
    ]
    assert compare(before, after).p_randomisation == pytest.approx(sum(as_large) / len(signs))


def test_all_figures_of_a_small_comparison() -> None:
    found = compare([0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 0.75])
    differences = [0.5, 0.0, 0.5, -0.25]
    assert found.before == 0.5
    assert found.after == 0.6875
    assert found.difference == statistics.fmean(differences)
    assert (found.better, found.equal, found.worse) == (2, 1, 1)
    assert found.effect_size == pytest.approx(statistics.fmean(differences) / statistics.stdev(differences))
    t = statistics.fmean(differences) / (statistics.stdev(differences) / 2)
    assert found.p_t == pytest.approx(2 * stats.t.sf(t, df=3))
    assert min(differences) <= found.low < found.difference < found.high <= max(differences)


def test_many_queries_are_resampled_and_agree_with_the_t_test() -> None:
    chance = random.Random(1)
    before = [chance.random() for _ in range(60)]
    after = [value + chance.gauss(0.03, 0.12) for value in before]
    found = compare(before, after)
    assert found.p_t is not None
    assert found.p_randomisation == pytest.approx(found.p_t, abs=0.02)
    half = 1.96 * statistics.stdev([b - a for a, b in zip(before, after, strict=True)]) / 60**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found == compare(before, after)


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [([0.2, 0.4], [0.2, 0.4], 1.0), ([0.5], [0.5], 1.0), ([0.5], [0.7], 1.0), ([0.1, 0.3], [0.4, 0.6], 0.5)],
    ids=["equal", "one equal query", "one query", "the same difference everywhere"],
)
def test_differences_that_do_not_vary_have_no_t_test(
    before: list[float], after: list[float], p: float
) -> None:
    found = compare(before, after)
    assert found.p_randomisation == pytest.approx(p)
    assert found.p_t is None
    assert found.effect_size is None
    assert found.low == pytest.approx(found.difference)
    assert found.high == pytest.approx(found.difference)


@pytest.mark.parametrize(
    ("given_p", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.01], [0.5, 0.02]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_hand(given_p: list[float], adjusted: list[float]) -> None:
    assert holm(given_p) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [q for _, q in pairs] == sorted(adjusted)
