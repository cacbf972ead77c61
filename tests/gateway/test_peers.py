"""Several gateways on the same engines: parts of limits and of the engines, with a Redis and without."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import Overloaded, RateLimited, RegistryUnavailable
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import CatalogSnapshot
from dear_serving.gateway.fair_queue import FairQueue, Share, Work
from dear_serving.gateway.peers import Peers, Report, share_of
from dear_serving.gateway.shared_counts import SharedCounts
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.tenancy.tenants import Limits, Tenant

LIMITED = Tenant("limited", limits=Limits(requests_in_flight=4))

WORKS = st.dictionaries(
    st.sampled_from("abcde"), st.builds(Work, st.floats(0.1, 10), st.integers(0, 10_000)), max_size=5
)
REPORTS = st.lists(st.builds(Report, WORKS), min_size=1, max_size=6)


def shares_of(reports: Sequence[Report], alone: float = 1000, shared: float = 400) -> list[Share]:
    """Each gateway's share."""
    return [share_of(own, [other for other in reports if other is not own], alone, shared) for own in reports]


@given(REPORTS)
def test_gateways_take_what_there_is_and_little_more(reports: list[Report]) -> None:
    tenants = {tenant for report in reports for tenant in report.work}
    room = 400 if len(tenants) > 1 else 1000
    shares = shares_of([Report(dict(report.work)) for report in reports])
    total = sum(share.room for share in shares)
    assert room * 0.999 <= total <= room + 0.25 * 400 + len(reports)
    for tenant in tenants:
        assert sum(share.parts.get(tenant, 0) for share in shares) <= 1.25 + 1e-6


def test_what_one_tenant_does_not_need_goes_to_the_gateway_of_the_other() -> None:
    flooded, quiet = shares_of([Report({"a": Work(1, 10_000)}), Report({"b": Work(1, 20)})])
    assert flooded.room == pytest.approx(380)
    assert quiet.room == pytest.approx(50)  # a quarter of an equal part, for whoever comes next


def test_weights_hold_between_tenants_of_different_gateways() -> None:
    heavy, light = shares_of([Report({"a": Work(3, 10_000)}), Report({"b": Work(1, 10_000)})])
    assert (heavy.room, light.room) == (pytest.approx(300), pytest.approx(100))


def test_a_tenants_weight_is_split_as_its_work_is() -> None:
    one, other = shares_of(
        [Report({"a": Work(1, 3000), "b": Work(1, 8000)}), Report({"a": Work(1, 1000)})], 400, 400
    )
    assert (one.parts["a"], one.parts["b"], other.parts["a"]) == (0.75, 1.0, 0.25)
    assert (one.room, other.room) == (pytest.approx(350), pytest.approx(50))


def test_a_report_comes_through_json_and_nonsense_does_not() -> None:
    report = Report({"a": Work(2.5, 7)}, 12.0)
    assert Report.from_json(report.to_json()) == report
    for text in (b"", b"[]", b"{}", b'{"work": {"a": [1]}, "rate": 0}', b'{"work": [], "rate": 1}'):
        with pytest.raises(ValueError):
            Report.from_json(text)


class Engines:
    """Engines that all queues feed: each token of a window takes as long, ``slots`` tokens run at once."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    async def work(self, queue: FairQueue, tenant: str, weight: float, cost: int) -> None:
        async with queue.turn(tenant, weight, cost):
            await asyncio.sleep(0.01)
        self.done[tenant] += cost


@contextlib.asynccontextmanager
async def exchanging(queues: Sequence[FairQueue], alone: float, shared: float) -> AsyncIterator[None]:
    """The queues hear of each other, as over a Redis."""

    async def run() -> None:
        while True:
            reports = [Report(queue.work()) for queue in queues]
            for queue, share in zip(queues, shares_of(reports, alone, shared), strict=True):
                queue.share = share
            await asyncio.sleep(0.02)

    running = asyncio.create_task(run())
    yield
    running.cancel()


@pytest.mark.parametrize(
    ("weights", "least", "most"), [((1.0, 1.0), 0.8, 1.25), ((3.0, 1.0), 2.4, 3.75)], ids=str
)
async def test_tenants_on_two_gateways_share_by_weight(
    weights: tuple[float, float], least: float, most: float
) -> None:
    """One floods both gateways, one only the second: without an exchange it would get a quarter."""
    queues, engines = [FairQueue(400, 400), FairQueue(400, 400)], Engines()

    async def flood(queue: FairQueue, tenant: str, weight: float) -> None:
        while True:
            await engines.work(queue, tenant, weight, 10)

    async with exchanging(queues, 400, 400):
        places = [(queues[0], "a"), (queues[1], "a"), (queues[1], "b")]
        floods = [
            asyncio.create_task(flood(queue, tenant, weights[tenant == "b"]))
            for queue, tenant in places
            for _ in range(60)
        ]
        await asyncio.sleep(0.3)
        engines.done.clear()
        await asyncio.sleep(1.5)
        for one in floods:
            one.cancel()
    assert least <= engines.done["a"] / engines.done["b"] <= most, engines.done


# Limits, with a Redis.


def gateway(
    redis: tuple[str, object] | None, name: str, living: int = 1, scope: str = "test"
) -> tuple[Peers, FairQueue]:
    """The parts of a gateway that know of others."""
    queue = FairQueue(alone=1000, shared=400)

    async def count() -> int:
        if living < 1:
            raise RegistryUnavailable("away", retry_after_s=1)
        return living

    return Peers(queue, SharedCounts(redis[0], scope, name) if redis else None, count), queue


async def places_of(*peers: Peers, attempts: int = 10) -> int:
    """How many of a limited tenant's requests all gateways together take at once."""
    taken = 0
    async with contextlib.AsyncExitStack() as held:
        for _ in range(attempts):
            for one in peers:
                with contextlib.suppress(RateLimited):
                    await held.enter_async_context(one.place(LIMITED))
                    taken += 1
    return taken


@pytest.mark.integration
async def test_requests_in_flight_are_counted_over_all_gateways(redis: tuple[str, object]) -> None:
    one, other = gateway(redis, "one")[0], gateway(redis, "other")[0]
    for peers in (one, other, one):
        await peers.refresh()
    assert one.living == other.living == 2
    for _ in range(3):
        assert await places_of(one, other) == 4
        assert await places_of(one) == 4
        await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError):
        async with other.place(LIMITED):
            raise ZeroDivisionError
    async with one.place(Tenant("without a limit")):
        pass
    await asyncio.gather(one.close(), other.close())


@pytest.mark.integration
async def test_a_gateway_that_dies_takes_its_requests_along(
    redis: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dear_serving.gateway.shared_counts.LIVING_S", 0.3)
    one, dead = gateway(redis, "one", scope="dead")[0], SharedCounts(redis[0], "dead", "dead")
    await dead.exchange(Report().to_json())
    await one.refresh()
    assert [await dead.take("limited", count, 4) for count in (1, 2, 3)] == [True] * 3
    assert await places_of(one) == 1
    await asyncio.sleep(0.5)
    await one.refresh()
    assert one.living == 1
    assert await places_of(one) == 4
    await asyncio.gather(one.close(), dead.close())


@pytest.mark.integration
async def test_clients_that_leave_while_they_are_counted_take_no_place_along(
    redis: tuple[str, object],
) -> None:
    one, other = gateway(redis, "one", scope="left")[0], gateway(redis, "other", scope="left")[0]
    for peers in (one, other, one):
        await peers.refresh()

    async def request() -> None:
        async with one.place(LIMITED):
            await asyncio.sleep(60)

    for turns in range(12):  # to leave before, while and after Redis counts
        left = asyncio.create_task(request())
        for _ in range(turns):
            await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
    await asyncio.gather(*one._calls)
    assert await places_of(other) == 4
    await asyncio.gather(one.close(), other.close())


@pytest.mark.integration
async def test_a_count_that_comes_late_does_not_replace_a_later_one(redis: tuple[str, object]) -> None:
    counts, other = SharedCounts(redis[0], "late", "one"), SharedCounts(redis[0], "late", "other")
    await counts.exchange(Report().to_json())
    counts._numbers = iter((5, 3))  # type: ignore[assignment]
    await counts.give_back("limited", 0)
    await counts.take("limited", 4, 4)  # was sent before
    assert await other.take("limited", 4, 4)
    await asyncio.gather(counts.close(), other.close())


@pytest.mark.integration
async def test_waiting_work_of_all_gateways_counts(redis: tuple[str, object]) -> None:
    (one, busy), (other, queue) = gateway(redis, "one", scope="work"), gateway(redis, "other", scope="work")
    admission = TokenAdmission(queue, Budgets(), other, 1000)
    async with contextlib.AsyncExitStack() as turns:
        await turns.enter_async_context(busy.turn("hog", 1.0, 700))
        busy.rate = 20.0
        for peers in (one, other):
            await peers.refresh()
        assert (other.others_cost(), other.others_cost("hog"), other.others_cost("x")) == (700, 700, 0)
        await admission.admit(caller("quiet"), 300)
        with pytest.raises(
            Overloaded, match="700 tokens of work are ahead, the server takes on 1000"
        ) as full:
            await admission.admit(caller("quiet"), 301)
        assert full.value.retry_after_s == pytest.approx(35)  # of all work, at the rate of all
        with pytest.raises(RateLimited, match="the tenant has 700 tokens of work ahead, and leaves the rest"):
            await admission.admit(caller("hog"), 290)
    await asyncio.gather(one.close(), other.close())


@pytest.mark.integration
async def test_without_its_redis_each_gateway_has_a_part(
    redis: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Redis hangs for a while, then answers again: limits bind meanwhile, and nobody waits for long."""
    monkeypatch.setattr("dear_serving.gateway.shared_counts._PAUSE_S", 0.2)
    (one, queue), (other, _) = (gateway(redis, name, living=2, scope="away") for name in ("one", "other"))
    os.kill(redis[1].pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            for peers in (one, other):
                await peers.refresh()
            assert (one.is_shared, one.living, queue.share) == (False, 2, Share.equal(2))
            assert await places_of(one, other) == 4
            assert await places_of(one) == 2
    finally:
        os.kill(redis[1].pid, signal.SIGCONT)
    await asyncio.sleep(0.3)
    for peers in (one, other, one):
        await peers.refresh()
    assert one.is_shared
    assert await places_of(one) == 4
    await asyncio.gather(one.close(), other.close())


async def test_without_a_redis_each_living_gateway_has_an_equal_part() -> None:
    peers, queue = gateway(None, "one", living=3)
    await peers.refresh()
    assert (peers.part_of(10), queue.share) == (4, Share.equal(3))
    assert await places_of(peers) == 2
    lost, _ = gateway(None, "lost", living=0)
    await lost.refresh()  # the registry is away
    assert await places_of(lost) == 4


@pytest.mark.integration
async def test_a_redis_that_is_something_else_is_as_none(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peers, _ = gateway((f"redis://127.0.0.1:{port}/0", None), "one")
    await peers.refresh()
    assert await places_of(peers) == 4
    assert "tenancy.limits_url: Redis does not answer, this gateway counts alone" in caplog.text
    await peers.close()
    server.close()


def caller(tenant: str) -> Caller:
    return Caller(Tenant(tenant), "1", CatalogSnapshot(0, {}, "base"))
