"""When requests go out, what ends a run, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import time

import pytest

from benchmarks.trivial_server import Behaviour
from dear_serving.process.background import free_port
from dear_tools.exits import ToolError
from dear_tools.load.generator import Generator, in_steady_state
from dear_tools.load.lists import FileLists, List, OneList
from dear_tools.load.loadtest import run
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule, Stage, random_sources
from dear_tools.load.sender import Sender
from tests.tools.load.runs import few_words, load_test, outcome_of, schedule
from tests.tools.load.servers import Asked, always, ranks, refusal, scripted, trivial

pytestmark = pytest.mark.integration


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(sorted(times))]


# --- open loop ----------------------------------------------------------------------------------------


async def test_an_open_loop_sends_what_the_schedule_says_when_it_says() -> None:
    with trivial() as url:
        outcome = await outcome_of(url, schedule(rate="0:100", duration_s=1.0))
    intended = [record.intended_s for record in sorted(outcome.records, key=lambda one: one.intended_s)]
    assert len(intended) == 50
    # Of a ramp from 0 the k-th is due at sqrt(2 k / 100).
    assert intended == pytest.approx([(2 * k / 100) ** 0.5 for k in range(50)])
    assert all(record.sent_s >= record.intended_s for record in outcome.records)
    assert {record.result for record in outcome.records} == {"ok"}


async def test_latency_counts_a_stall_of_the_server_and_requests_go_out_all_the_same() -> None:
    """Coordinated omission: a server that stalls for a second must not silence those who come meanwhile."""
    stalled_until = 0.0

    async def stalls(asked: Asked) -> bytes:
        nonlocal stalled_until
        now_s = asyncio.get_running_loop().time()
        if len(served.rankings) == 10:
            stalled_until = now_s + 1.0
        await asyncio.sleep(max(0.0, stalled_until - now_s))
        return await ranks(asked)

    with scripted(stalls) as served:
        outcome = await outcome_of(served.url, schedule(rate="20", duration_s=2.6))
    records = sorted(outcome.records, key=lambda record: record.intended_s)
    assert len(records) == 52
    during = [record for record in records if 0.5 <= record.intended_s < 1.2]
    assert len(during) == 14
    # They went out when they were due, and waited for what was left of the stall.
    assert all(record.latency_s > 1.0 - (record.intended_s - 0.45) - 0.2 for record in during)
    assert max(record.latency_s for record in during) > 0.8
    assert min(record.latency_s for record in records[-16:]) < 0.3
    assert sum(record.latency_s > 0.25 for record in records) >= 12


async def test_a_generator_that_is_held_up_counts_it_in_latency_and_not_in_service() -> None:
    """The same on the sending side: what goes out late is not measured from when it went."""

    def hold_up(record: Record, generator: Generator) -> None:
        if generator.progress.done == 10:
            time.sleep(0.6)

    with trivial() as url:
        outcome = await outcome_of(url, schedule(rate="50", duration_s=1.5), hold_up)
    late = [record for record in outcome.records if record.lag_s > 0.2]
    assert len(late) >= 10
    assert all(record.latency_s >= record.lag_s > record.service_s for record in late)
    assert outcome.summary.lag_p99_ms > 300
    assert outcome.summary.latency is not None
    assert outcome.summary.service is not None
    assert outcome.summary.latency.p99_ms > outcome.summary.service.p99_ms + 200


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    with trivial(Behaviour(delay_s=0.6)) as url:
        most = 0

        def count(record: Record, generator: Generator) -> None:
            nonlocal most
            most = max(most, generator.progress.in_flight)

        outcome = await outcome_of(url, schedule(rate="50", duration_s=0.8), count)
    assert len(outcome.records) == 40
    assert most >= 25


async def test_poisson_arrivals_are_those_of_the_seed() -> None:
    with trivial() as url:
        first, second = [
            await outcome_of(url, schedule(rate="50", duration_s=0.5, arrivals="poisson")) for _ in range(2)
        ]
    times = [sorted(record.intended_s for record in outcome.records) for outcome in (first, second)]
    assert times[0] == times[1]
    assert len({round(gap, 6) for gap in gaps(times[0])}) > len(times[0]) / 2


# --- closed loop --------------------------------------------------------------------------------------


async def test_callers_of_a_closed_loop_wait_for_their_answers() -> None:
    now = most = 0

    async def counts(asked: Asked) -> bytes:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.05)
        now -= 1
        return await ranks(asked)

    with scripted(counts) as served:
        outcome = await outcome_of(served.url, schedule(callers="3", duration_s=0.8))
    assert most == 3
    assert 10 < len(outcome.records) <= 3 * 17
    assert all(record.lag_s < 0.5 for record in outcome.records)


async def test_a_ramp_of_callers_brings_them_in_and_lets_them_go() -> None:
    async def slow(asked: Asked) -> bytes:
        await asyncio.sleep(0.02)
        return await ranks(asked)

    with scripted(slow) as served:
        outcome = await outcome_of(served.url, schedule(callers="700ms@0:8, 700ms@8:0"))

    def at_work(at_s: float) -> int:
        return sum(record.intended_s <= at_s < record.done_s for record in outcome.records)

    def mean(start_s: float, end_s: float) -> float:
        points = [start_s + (end_s - start_s) * k / 50 for k in range(50)]
        return sum(map(at_work, points)) / len(points)

    assert max(at_work(k / 100) for k in range(140)) <= 8
    assert mean(0.0, 0.2) < mean(0.55, 0.85) > mean(1.2, 1.4)
    assert mean(0.55, 0.85) > 4


async def test_a_ramp_that_comes_back_brings_callers_back() -> None:
    with trivial(Behaviour(delay_s=0.01)) as url:
        outcome = await outcome_of(url, schedule(callers="300ms@4, 300ms@1, 300ms@4"))

    def between(start_s: float, end_s: float) -> int:
        return sum(start_s <= record.intended_s < end_s for record in outcome.records)

    assert between(0.65, 0.9) > 1.5 * between(0.35, 0.6) < between(0.05, 0.3)


@pytest.mark.parametrize(("retry_after", "least_s"), [("0.4", 0.4), (None, 1.0)])
async def test_a_caller_who_is_refused_waits_before_the_next_request(
    retry_after: str | None, least_s: float
) -> None:
    headers = {} if retry_after is None else {"retry_after": retry_after}
    with scripted(always(refusal(**headers))) as served:
        outcome = await outcome_of(served.url, schedule(callers="1", duration_s=1.6))
    assert all(gap >= least_s for gap in gaps([asked.at_s for asked in served.rankings]))
    assert 2 <= len(outcome.records) <= 1.6 / least_s + 1


async def test_a_caller_without_a_server_does_not_spin() -> None:
    outcome = await outcome_of(f"http://127.0.0.1:{free_port()}", schedule(callers="2", duration_s=1.5))
    assert {record.result for record in outcome.records} == {"unavailable"}
    assert len(outcome.records) <= 4


async def test_refused_callers_do_not_keep_a_run_from_ending() -> None:
    started_s = asyncio.get_running_loop().time()
    with scripted(always(refusal(retry_after="30"))) as served:
        outcome = await outcome_of(served.url, schedule(callers="2", requests=2, duration_s=60.0))
    assert len(outcome.records) == 2
    assert asyncio.get_running_loop().time() - started_s < 10


# --- what ends a run, and what counts -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rate", "callers"])
async def test_a_number_of_requests_ends_a_run_and_the_warm_up_is_not_among_them(kind: str) -> None:
    load = {"rate": "100"} if kind == "rate" else {"callers": "3"}
    with trivial(Behaviour(delay_s=0.01)) as url:
        outcome = await outcome_of(url, schedule(**load, duration_s=60.0, requests=17, warmup_s=0.3))
    assert len(outcome.records) == 17
    assert min(record.intended_s for record in outcome.records) >= 0.3
    assert outcome.summary.requests == 17
    assert outcome.summary.duration_s < 10
    if kind == "rate":
        assert outcome.summary.offered_per_s == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("kind", ["rate", "callers"])
async def test_a_single_request_has_no_absurd_rate(kind: str) -> None:
    load = {"rate": "10"} if kind == "rate" else {"callers": "1"}
    for duration_s in (0.1, 60.0):
        with trivial(Behaviour(delay_s=0.02)) as url:
            outcome = await outcome_of(url, schedule(**load, duration_s=duration_s, requests=1))
        assert outcome.summary.requests == 1
        assert 0 < outcome.summary.offered_per_s < 60


async def test_the_warm_up_is_sent_and_does_not_count() -> None:
    with scripted() as served:
        outcome = await outcome_of(served.url, schedule(rate="40", duration_s=0.5, warmup_s=0.5))
    assert len(served.rankings) == 40
    assert len(outcome.records) == outcome.summary.requests == 20
    assert outcome.summary.offered_s == pytest.approx(0.5)
    assert outcome.summary.offered_per_s == pytest.approx(40)


@pytest.mark.parametrize(
    ("stages", "warm_up"),
    [
        ((Stage(10, 5, 50),), Stage(2, 5, 5)),
        ((Stage(10, 0, 50),), Stage(2, 25, 25)),
        ((Stage(10, 7, 7), Stage(1, 1, 1)), Stage(2, 7, 7)),
    ],
)
def test_the_warm_up_is_at_the_first_level(stages: tuple[Stage, ...], warm_up: Stage) -> None:
    found = Schedule("open", stages, warmup_s=2.0)
    assert found.with_warmup == (warm_up, *stages)
    assert found.duration_s == sum(stage.duration_s for stage in stages) + 2
    assert Schedule("open", stages).with_warmup == stages


def test_what_was_due_before_the_end_of_the_warm_up_does_not_count() -> None:
    records = [Record(at_s, at_s, at_s + 5, "t", "m", "ok", 1) for at_s in (0.0, 1.999, 2.0, 3.0)]
    assert in_steady_state(records, 2.0) == records[2:]


@pytest.mark.parametrize("load", [{"rate": "0.2"}, {"rate": "100"}, {"callers": "3"}])
async def test_stopping_ends_a_run_at_once_and_waits_for_what_is_under_way(load: dict[str, str]) -> None:
    asked = load_test("", lists=few_words())
    with trivial(Behaviour(delay_s=0.3)) as url:
        asked = load_test(url)
        async with Sender(asked.terms, {}) as sender:
            generator = Generator(sender, asked.mix, asked.lists, random.Random(0))
            running = asyncio.create_task(generator.run(schedule(**load, duration_s=60.0)))
            await asyncio.sleep(0.5)
            generator.stop()
            sent = generator.progress.sent
            records = await asyncio.wait_for(running, 5)
    assert len(records) == sent == generator.progress.done > 0
    assert {record.result for record in records} == {"ok"}
    assert 0.4 < generator.offered_until_s < 1.5
    assert all(record.intended_s <= generator.offered_until_s for record in records)


async def test_a_run_that_is_stopped_in_its_warm_up_is_a_run_without_requests() -> None:
    with trivial() as url:
        asked = load_test(url)

        class Stops:
            def update(self, generator: Generator, when: Schedule) -> None:
                generator.stop()

        outcome = await run(asked, schedule(rate="50", duration_s=5.0, warmup_s=5.0), Stops())
    assert outcome.summary.requests == 0
    assert outcome.summary.duration_s > 0


# --- lists, chance and what is left behind ----------------------------------------------------------------


async def test_no_two_requests_are_alike_unless_asked_for() -> None:
    with scripted() as served:
        await outcome_of(served.url, schedule(callers="2", requests=60), lists=few_words())
        bodies = [str(asked.body) for asked in served.rankings]
        assert len(set(bodies)) == 60
        served.asked.clear()
        await outcome_of(served.url, schedule(callers="2", requests=20), lists=OneList(few_words()))
        assert len({str(asked.body) for asked in served.rankings}) == 1


async def test_lists_that_run_out_end_the_run_in_a_sentence_and_leave_nothing_behind() -> None:
    lists = FileLists([List("q", ("a", "b", "c"))], None, None, random.Random(0), "few.jsonl")
    for load in ({"rate": "100"}, {"callers": "3"}):
        lists = FileLists([List("q", ("a", "b", "c"))], None, None, random.Random(0), "few.jsonl")
        with (
            trivial(Behaviour(delay_s=0.2)) as url,
            pytest.raises(ToolError, match="after 6 requests no other can be made"),
        ):
            await outcome_of(url, schedule(**load, duration_s=60.0), lists=lists)
    await nothing_is_left()


async def test_tenants_and_models_are_mixed() -> None:
    tenants = (Tenant("a", "ka"), Tenant("b", "kb"))
    with trivial() as url:
        outcome = await outcome_of(
            url, schedule(callers="4", requests=200), tenants=tenants, models=("x", "y")
        )
    assert {(record.tenant, record.model) for record in outcome.records} == {
        (tenant, model) for tenant in "ab" for model in "xy"
    }
    assert [part.name for part in outcome.summary.tenants] == sorted(
        "ab", key=lambda name: -sum(record.tenant == name for record in outcome.records)
    )


def test_seeds_of_schedule_and_lists_are_apart_and_repeat() -> None:
    (one, other), (again, _), (different, _) = random_sources(0), random_sources(0), random_sources(1)
    drawn = [source.random() for source in (one, other, again, different)]
    assert drawn[0] == drawn[2]
    assert len(set(drawn)) == 3


async def nothing_is_left() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # what was not closed warns here, and warnings are errors


@pytest.mark.parametrize("load", [{"rate": "50"}, {"callers": "4"}])
async def test_a_run_leaves_no_task_and_no_connection_behind(load: dict[str, str]) -> None:
    with trivial(Behaviour(delay_s=0.02, overload_share=0.2)) as url:
        await outcome_of(url, schedule(**load, duration_s=0.5), attempts=1)
        await nothing_is_left()


async def test_a_run_that_is_cancelled_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    with trivial(Behaviour(delay_s=5.0)) as url:
        running = asyncio.create_task(outcome_of(url, schedule(rate="50", duration_s=60.0)))
        await asyncio.sleep(0.4)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await nothing_is_left()
    assert caplog.records == []
