"""When requests are sent: stages, ramps, constant and Poisson arrivals."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.exits import ToolError
from dear_tools.load.schedule import (
    Arrivals,
    Stage,
    arrival_times,
    duration_s,
    level_at,
    parse_duration,
    parse_stages,
)

LEVELS = st.floats(0, 60).map(lambda level: round(level, 3))
STAGES = st.lists(
    st.builds(Stage, st.floats(0.05, 15), LEVELS, LEVELS).filter(lambda stage: stage.total > 1e-6),
    min_size=1,
    max_size=4,
)


def times(stages: list[Stage], arrivals: Arrivals = "constant", seed: int = 0) -> list[float]:
    return list(arrival_times(stages, arrivals, random.Random(seed)))


def reached(stages: list[Stage], at_s: float) -> float:
    """The integral of the level from 0 to a time, by areas of trapezia."""
    total = 0.0
    for stage in stages:
        inside_s = min(at_s, stage.duration_s)
        at_end = stage.start + (stage.end - stage.start) * inside_s / stage.duration_s
        total += (stage.start + at_end) / 2 * inside_s
        at_s -= inside_s
    return total


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([Stage(2, 2, 2)], [0, 0.5, 1, 1.5]),
        ([Stage(1, 1, 1), Stage(1, 3, 3)], [0, 1, 4 / 3, 5 / 3]),
        # From 0 on the k-th comes at sqrt(2 k / slope), and down to 0 the same backwards.
        ([Stage(4, 0, 2)], [0, 2, math.sqrt(8), math.sqrt(12)]),
        ([Stage(4, 2, 0)], [0, 4 - math.sqrt(12), 4 - math.sqrt(8), 4 - math.sqrt(4)]),
        ([Stage(2, 1, 3)], [0, math.sqrt(3) - 1, math.sqrt(5) - 1, math.sqrt(7) - 1]),
        ([Stage(1, 0.5, 0.5), Stage(1, 0.5, 0.5), Stage(1, 1, 1)], [0, 2]),
    ],
    ids=str,
)
def test_constant_arrivals_come_where_the_integral_of_the_rate_is_a_whole_number(
    stages: list[Stage], expected: list[float]
) -> None:
    assert times(stages) == pytest.approx(expected)


@given(stages=STAGES)
def test_constant_arrivals_rise_and_are_as_many_as_the_integral_says(stages: list[Stage]) -> None:
    found = times(stages)
    total = sum(stage.total for stage in stages)
    assert abs(len(found) - total) <= 1 + 1e-6
    assert found == sorted(found)
    assert found[0] == 0 or stages[0].start == 0
    assert all(0 <= at_s <= duration_s(stages) + 1e-9 for at_s in found)
    assert [reached(stages, at_s) for at_s in found] == pytest.approx(list(range(len(found))), abs=1e-5)


@given(stages=STAGES, seed=st.integers(0, 1000))
def test_poisson_arrivals_rise_and_stay_within_the_stages(stages: list[Stage], seed: int) -> None:
    found = times(stages, "poisson", seed)
    assert found == sorted(found)
    assert all(0 < at_s <= duration_s(stages) + 1e-9 for at_s in found)


def test_poisson_arrivals_are_as_many_as_a_poisson_distribution_says() -> None:
    stages = [Stage(5, 0, 20), Stage(5, 20, 20), Stage(10, 20, 0)]
    counts = [len(times(stages, "poisson", seed)) for seed in range(400)]
    # Mean and variance are both 250; of 400 draws the mean varies by 0.8, the variance by 18.
    assert statistics.mean(counts) == pytest.approx(250, abs=3)
    assert statistics.variance(counts) == pytest.approx(250, abs=60)


def test_poisson_gaps_are_exponential_and_independent_on_the_clock_of_the_rate() -> None:
    stages = [Stage(50, 10, 90), Stage(50, 90, 10)]
    clock = [0.0, *(reached(stages, at_s) for at_s in times(stages, "poisson", 7))]
    gaps = [later - earlier for earlier, later in itertools.pairwise(clock)]
    assert len(gaps) > 4500
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is passed in one of a hundred.
    ordered = sorted(gaps)
    expected = [1 - math.exp(-gap) for gap in ordered]
    distance = max(abs((rank + 1) / len(gaps) - value) for rank, value in enumerate(expected))
    assert distance < 1.63 / math.sqrt(len(gaps))
    assert abs(statistics.correlation(gaps[:-1], gaps[1:])) < 3 / math.sqrt(len(gaps))


def test_poisson_arrivals_of_two_slices_do_not_depend_on_each_other() -> None:
    halves = []
    for seed in range(400):
        found = times([Stage(10, 10, 10)], "poisson", seed)
        halves.append((sum(at_s < 5 for at_s in found), sum(at_s >= 5 for at_s in found)))
    assert abs(statistics.correlation(*zip(*halves, strict=True))) < 3 / math.sqrt(400)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    stages = [Stage(10, 5, 20)]
    assert times(stages, "poisson", 3) == times(stages, "poisson", 3)
    assert times(stages, "poisson", 3) != times(stages, "poisson", 4)


@pytest.mark.parametrize(
    ("at_s", "level"), [(0, 5), (9.99, 5), (10, 5), (40, 27.5), (70, 50), (70.01, 50), (80, 0), (1e9, 0)]
)
def test_the_level_follows_the_stages_and_is_0_after_them(at_s: float, level: float) -> None:
    assert level_at(parse_stages("10s@5, 1m@5:50, 10s@50", 1), at_s) == pytest.approx(level)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", [Stage(30, 20, 20)]),
        ("0.5", [Stage(30, 0.5, 0.5)]),
        ("5:50", [Stage(30, 5, 50)]),
        ("50:0", [Stage(30, 50, 0)]),
        ("10s@5", [Stage(10, 5, 5)]),
        ("500ms@.5:1.5", [Stage(0.5, 0.5, 1.5)]),
        ("10s@5,1m@5:50, 1h@50", [Stage(10, 5, 5), Stage(60, 5, 50), Stage(3600, 50, 50)]),
    ],
)
def test_stages_are_read_and_a_level_alone_is_meant_for_the_whole(text: str, expected: list[Stage]) -> None:
    found = parse_stages(text, 30)
    assert list(found) == expected
    assert parse_stages(",".join(map(str, found)), 1) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("fast", "'fast' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("-5", "'-5' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("1e3", "'1e3' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("nan", "'nan' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("5:", "'5:' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("10@5", "'10@5' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        ("5,6", "'5' is no load such as 30s@10 or 1m@5:50"),
        ("10s@5,", "'' is no load such as 30s@10 or 1m@5:50"),
        ("10s@5,7", "'7' is no load such as 30s@10 or 1m@5:50"),
        ("0", "'0': a load above 0 is needed"),
        ("10s@5,10s@0", "'10s@0': a load above 0 is needed"),
        ("0:0", "'0:0': a load above 0 is needed"),
        (f"{'9' * 400}", f"'{'9' * 400}': a load above 0 is needed"),
        ("0s@5", "'0s' is no duration such as 30s, 500ms or 2m"),
    ],
)
def test_what_is_no_load_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ToolError) as raised:
        parse_stages(text, 30)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7", 7), (" 1.5s ", 1.5), (".5", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "1d", "s", "1 s", "1e3", "inf", "nan", "9" * 400])
def test_what_is_no_duration_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ToolError) as raised:
        parse_duration(text)
    assert str(raised.value) == f"{text!r} is no duration such as 30s, 500ms or 2m"


@pytest.mark.parametrize("text", ["0", "0s", "0ms", "0.0"])
def test_no_time_at_all_is_a_duration_where_it_may_be(text: str) -> None:
    assert parse_duration(text, may_be_none=True) == 0
