"""Finding the highest rate that holds an objective."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.load import capacity
from dear_tools.load.capacity import Search, Step, find_capacity
from dear_tools.load.generator import Generator
from dear_tools.load.loadtest import LoadTest, Outcome, View
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule
from tests.tools.load.runs import Blind, load_test, made, summary_of
from tests.tools.load.servers import Asked, always, ranks, refusal, scripted

pytestmark = pytest.mark.integration


def tried(search: Search, holds: Callable[[float], bool]) -> list[tuple[float, bool]]:
    steps: list[tuple[float, bool]] = []
    while (rate := search.next_rate(steps)) is not None:
        assert rate > 0
        steps.append((rate, holds(rate)))
    return steps


@given(
    first=st.floats(0.1, 100),
    ratio=st.floats(1 / 32, 10_000),
    precision=st.sampled_from([0.02, 0.1, 0.3, 1.0]),
)
def test_the_last_rate_that_held_is_within_the_precision_below_the_threshold(
    first: float, ratio: float, precision: float
) -> None:
    threshold = first * ratio
    steps = tried(Search(first, 1.0, precision=precision), lambda rate: rate <= threshold)
    held = max(rate for rate, holds in steps if holds)
    broke = min(rate for rate, holds in steps if not holds)
    assert held <= threshold < broke
    assert broke - held <= precision * held
    # Doubling or halving to the threshold, then halving the gap; no rate twice.
    assert len(steps) <= abs(math.log2(ratio)) + math.log2(1 / precision) + 3
    assert len({rate for rate, _ in steps}) == len(steps)


@given(st.randoms(use_true_random=False), st.floats(0.1, 100))
def test_a_search_ends_whatever_the_server_does(random: Any, first: float) -> None:
    assert len(tried(Search(first, 1.0), lambda rate: random.random() < 0.5)) <= 30


def test_a_search_in_which_nothing_holds_gives_up_after_halving_five_times() -> None:
    steps = tried(Search(32.0, 1.0), lambda rate: False)
    assert [rate for rate, _ in steps] == [32.0, 16.0, 8.0, 4.0, 2.0, 1.0]


def test_a_search_in_which_everything_holds_gives_up_in_the_end() -> None:
    assert len(tried(Search(1.0, 1.0), lambda rate: True)) == 30


def test_a_lower_rate_that_broke_once_does_not_undo_a_higher_one_that_held() -> None:
    search = Search(1.0, 1.0)
    assert search.next_rate([(1.0, False), (2.0, True)]) == 4.0


# --- with runs made up ----------------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch, run_at: Callable[[float], dict[str, Any]]) -> None:
    """Runs that take no time; what comes of each is said by its rate."""

    async def run(asked: LoadTest, when: Schedule, view: View, *, watch: Any) -> Outcome:
        said = run_at(when.stages[0].start)
        records = [made(n / 100, said.get("latency_s", 0.1)) for n in range(100)]
        summary = summary_of(records, str(asked.objective))
        summary = dataclasses.replace(summary, generator_cpu=said.get("cpu", 0.1))
        return Outcome(when, summary, tuple(records), said.get("was_stopped", False))

    monkeypatch.setattr(capacity, "run", run)


async def steps_of(search: Search, asked: LoadTest | None = None) -> list[Step]:
    asked = asked or load_test("http://nowhere.invalid", objective="p95<1s")
    return [
        step async for step in find_capacity(asked, search, Blind(), watch=lambda record, generator: None)
    ]


async def test_the_capacity_is_found_and_every_step_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda rate: {"latency_s": 0.1 if rate <= 11 else 5.0})
    steps = await steps_of(Search(1.0, 20.0, warmup_s=2.0))
    assert [(step.rate, step.end) for step in steps] == [
        *((rate, "held") for rate in (1.0, 2.0, 4.0, 8.0)),
        *((16.0, "broke"), (12.0, "broke"), (10.0, "held"), (11.0, "held")),
    ]
    schedule = steps[0].outcome.schedule
    assert (schedule.kind, schedule.warmup_s, schedule.stages[0].duration_s) == ("open", 2.0, 20.0)


async def test_a_low_rate_takes_as_long_as_twenty_requests_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda rate: {"latency_s": 0.1 if rate <= 1 else 5.0})
    steps = await steps_of(Search(0.5, 10.0))
    durations = {step.rate: step.outcome.schedule.stages[0].duration_s for step in steps}
    assert (durations[0.5], durations[1.0], durations[2.0]) == (40.0, 20.0, 10.0)


async def test_a_search_ends_where_the_generator_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch, lambda rate: {"latency_s": 0.1 if rate < 4 else 5.0, "cpu": 0.97 if rate >= 4 else 0.2}
    )
    steps = await steps_of(Search(1.0, 20.0))
    assert [(step.rate, step.held, step.is_generators_limit) for step in steps] == [
        (1.0, True, False),
        (2.0, True, False),
        (4.0, False, True),
    ]


async def test_a_busy_generator_whose_rate_holds_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(
        monkeypatch, lambda rate: {"latency_s": 0.1 if rate <= 4 else 5.0, "cpu": 0.97 if rate <= 4 else 0.2}
    )
    assert len(await steps_of(Search(1.0, 20.0))) > 4


async def test_a_rate_that_was_stopped_by_hand_is_the_last_and_has_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, lambda rate: {"was_stopped": rate == 4})
    steps = await steps_of(Search(1.0, 20.0))
    assert [(step.rate, step.end) for step in steps] == [(1.0, "held"), (2.0, "held"), (4.0, "stopped")]
    assert not steps[-1].held


# --- with servers ------------------------------------------------------------------------------------


def one_by_one(seconds: float) -> Callable[[Asked], Any]:
    """A server that needs so long for each request and takes one after the other."""
    free_at = 0.0

    async def respond(asked: Asked) -> bytes:
        nonlocal free_at
        now_s = asyncio.get_running_loop().time()
        free_at = max(now_s, free_at) + seconds
        await asyncio.sleep(free_at - now_s)
        return await ranks(asked)

    return respond


async def test_the_capacity_of_a_server_that_takes_one_request_after_the_other_is_found() -> None:
    """25 ms each: 40 requests/s are served at once, and from 50 on the queue grows."""
    with scripted(one_by_one(0.025)) as served:
        asked = load_test(served.url, objective="p90<180ms")
        steps = await steps_of(Search(20.0, 1.2, "constant", precision=0.25), asked)
    held = max(step.rate for step in steps if step.held)
    assert 30 <= held < 50
    assert all(step.end in ("broke", "cut") for step in steps if step.rate >= 50)
    assert all(step.outcome.summary.objective_met for step in steps if step.held)


async def test_a_rate_that_cannot_hold_any_more_is_ended_early() -> None:
    with scripted(always(refusal())) as served:
        asked = load_test(served.url, objective="p95<1s")
        search = Search(300.0, 20.0, "constant")
        told: list[Record] = []

        def watch(record: Record, generator: Generator) -> None:
            told.append(record)

        step = await anext(find_capacity(asked, search, Blind(), watch))
    assert (step.end, step.held) == ("cut", False)
    # Of 6,000 requests 300 may miss, and half as many more to be sure.
    assert 452 < len(step.outcome.records) < 1500
    assert len(told) == len(step.outcome.records)


async def test_a_server_that_refuses_everything_holds_no_rate() -> None:
    with scripted(always(refusal())) as served:
        steps = await steps_of(Search(200.0, 0.2, "constant"), load_test(served.url))
    assert len(steps) == 6
    assert not any(step.held for step in steps)
    assert steps[-1].outcome.summary.refused_share == 1.0
