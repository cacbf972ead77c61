"""The strategy for a caller who names none."""

from __future__ import annotations

import pytest

from dear_serving.ranking.strategies.auto import BUSY_LOOKS, PREFERENCE, Choice, LatencyModel, choose, cost_of
from dear_serving.ranking.strategies.cost import Cost
from dear_serving.ranking.windows import Sizes

HUNDRED = Sizes(100, 20, 10, 10)


def pace(lone_s: float | None = None, many: tuple[int, float] | None = None) -> LatencyModel:
    found = LatencyModel()
    if lone_s is not None:
        found.observe(1, lone_s)
    if many is not None:
        found.observe(*many)
    return found


@pytest.mark.parametrize("deadline_s", [None, 0.0, 10.0])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_passages_that_fit_one_window_take_one(count: int, deadline_s: float | None) -> None:
    choice = choose(Sizes(count, 20, 10, max(1, count)), deadline_s, pace(lone_s=3.0))
    assert choice == Choice("single", f"{count} passages fit one window of 20")


def test_the_best_is_preferred_where_nothing_presses() -> None:
    choice = choose(HUNDRED, None, pace(lone_s=9.0))
    assert choice.name == PREFERENCE[0]
    assert choice.reason.startswith("100 passages over a window of 20; no deadline to keep")


def test_a_pace_unknown_claims_no_fit() -> None:
    choice = choose(HUNDRED, 0.001, LatencyModel())
    assert choice.name == PREFERENCE[0]
    assert "no round timed yet" in choice.reason
    assert "fit the deadline" not in choice.reason
    assert "fits the deadline" not in choice.reason


def estimates_s(known: LatencyModel) -> dict[str, float]:
    return {name: known.estimate_s(cost_of(name, HUNDRED)) for name in PREFERENCE}


# A GPU (windows side by side are nearly free), a processor (they are not), and one in between.
PACES = [pace(1.0, (5, 1.2)), pace(1.0, (5, 5.0)), pace(1.0, (5, 3.0))]


@pytest.mark.parametrize("known", PACES, ids=["parallel", "serial", "between"])
@pytest.mark.parametrize("deadline_s", [1.0, 3.7, 4.5, 6.5, 8.0, 9.0, 12.0, 15.0, 100.0])
def test_the_first_that_fits_the_deadline_is_taken(known: LatencyModel, deadline_s: float) -> None:
    estimates = estimates_s(known)
    fitting = [name for name in PREFERENCE if estimates[name] <= deadline_s]
    choice = choose(HUNDRED, deadline_s, known)
    if fitting:
        assert choice.name == fitting[0]
        assert choice.reason.endswith("the deadline")
    else:
        assert choice.name == min(PREFERENCE, key=estimates.__getitem__)
        assert choice.reason.endswith(f"no strategy fits the deadline, {choice.name} comes closest")


def test_reasons_count_the_rounds() -> None:
    parallel, serial, _ = PACES
    assert choose(HUNDRED, 100.0, parallel).reason == (
        "100 passages over a window of 20; 1 round fits the deadline"
    )
    assert choose(HUNDRED, 9.0, serial) == Choice(
        "blitz", "100 passages over a window of 20; 3 rounds fit the deadline"
    )
    assert choose(HUNDRED, 1.0, serial).name == "merge2"


def test_passes_count_towards_the_deadline() -> None:
    serial = PACES[1]
    assert choose(HUNDRED, 7.0, serial, passes=1).name == "blitz"
    assert choose(HUNDRED, 13.9, serial, passes=2).name == "merge2"
    assert choose(HUNDRED, 14.0, serial, passes=2).name == "blitz"
    assert choose(HUNDRED, None, serial, passes=2).reason.endswith("30 windows in 1 round")


@pytest.mark.parametrize("deadline_s", [None, 100.0])
def test_busy_engines_are_spared(deadline_s: float | None) -> None:
    assert choose(HUNDRED, deadline_s, LatencyModel(), is_busy=True) == Choice(
        "blitz",
        "100 passages over a window of 20; the engines are busy, 8 windows in 4 rounds save tokens",
        BUSY_LOOKS,
    )
    thirty = Sizes(30, 20, 10, 10)
    assert choose(thirty, deadline_s, LatencyModel(), is_busy=True).name == "sliding"
    for sizes in (HUNDRED, thirty):
        name, _, looks = choose(sizes, deadline_s, LatencyModel(), is_busy=True)
        chosen = cost_of(name, sizes, looks=looks)
        assert chosen.shown <= cost_of("sliding", sizes).shown
        assert 1.3 * chosen.shown <= cost_of("joint", sizes).shown


def test_busy_engines_do_not_break_a_deadline() -> None:
    serial = PACES[1]
    assert choose(HUNDRED, 8.0, serial, is_busy=True).looks == BUSY_LOOKS
    hurried = choose(HUNDRED, 7.5, serial, is_busy=True)
    assert hurried == choose(HUNDRED, 7.5, serial)
    assert (hurried.name, hurried.looks) == ("blitz", None)


@pytest.mark.parametrize("count", [7, 20, 1001, 5000])
def test_short_and_very_long_lists_take_the_same_under_load(count: int) -> None:
    sizes = Sizes(count, 20, 10, min(10, count))
    assert choose(sizes, None, LatencyModel(), is_busy=True) == choose(sizes, None, LatencyModel())


def test_estimates_follow_what_was_observed() -> None:
    known = pace(2.0, (5, 4.0))
    assert known.estimate_s(Cost(calls=9, rounds=9, shown=180, lone_rounds=9, needed=0)) == pytest.approx(
        18.0
    )
    assert known.estimate_s(Cost(calls=15, rounds=1, shown=300, lone_rounds=0, needed=0)) == pytest.approx(
        12.0
    )
    assert known.estimate_s(Cost(calls=6, rounds=2, shown=120, lone_rounds=1, needed=0)) == pytest.approx(6.0)


def test_nothing_observed_estimates_nothing() -> None:
    assert not LatencyModel().known
    assert LatencyModel().estimate_s(Cost(9, 9, 180, 9, 0)) == 0.0


def test_one_kind_of_round_bounds_the_other() -> None:
    lone_only, many_only = pace(lone_s=2.0), pace(many=(5, 4.0))
    assert lone_only.known
    assert many_only.known
    mixed = Cost(calls=6, rounds=2, shown=120, lone_rounds=1, needed=0)
    assert lone_only.estimate_s(mixed) == pytest.approx(2.0 + 5 * 2.0)
    assert many_only.estimate_s(mixed) == pytest.approx(4.0 + 5 * 0.8)


def test_the_pace_is_smoothed() -> None:
    known = LatencyModel(weight=0.2)
    lone = Cost(1, 1, 20, 1, 0)
    known.observe(1, 1.0)
    known.observe(1, 2.0)
    assert known.estimate_s(lone) == pytest.approx(1.2)
    for _ in range(50):
        known.observe(1, 2.0)
    assert known.estimate_s(lone) == pytest.approx(2.0, abs=1e-3)
