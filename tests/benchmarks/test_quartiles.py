"""Medians, quartiles and pairwise ratios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quartiles import pairwise_ratios, percentile, quartiles

FIGURES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3.0, 3.0, 3.0)),
        ([1.0, 2.0], (1.25, 1.5, 1.75)),
        ([5.0, 1.0, 4.0, 2.0, 3.0], (2.0, 3.0, 4.0)),
    ],
)
def test_quartiles_are_interpolated(values: list[float], expected: tuple[float, float, float]) -> None:
    found = quartiles(values)
    assert (found.low, found.median, found.high) == pytest.approx(expected)
    assert found.count == len(values)


def test_no_figures_have_no_quartiles() -> None:
    with pytest.raises(ValueError, match="no figures"):
        quartiles([])


@given(FIGURES)
def test_quartiles_and_percentiles_agree(values: list[float]) -> None:
    found = quartiles(values)
    assert percentile(values, 0.5) == pytest.approx(found.median)
    assert percentile(values, 0.25) == pytest.approx(found.low)
    assert percentile(values, 0.0) == min(values)
    assert percentile(values, 1.0) == max(values)


def test_ratios_are_taken_pair_by_pair() -> None:
    # The machine was half as fast in the second pair: ratios of medians would not see the same 2x.
    assert pairwise_ratios([2.0, 4.0], [1.0, 2.0]) == [2.0, 2.0]


def test_arms_of_different_length_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        pairwise_ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("values", "text"), [([2.0], "2.00x"), ([1.0, 2.0, 3.0], "2.00x (1.50 to 2.50)")])
def test_text_shows_quartiles_where_there_are_some(values: list[float], text: str) -> None:
    assert quartiles(values).text(2, "x") == text
