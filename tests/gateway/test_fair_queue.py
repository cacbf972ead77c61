"""Fair queueing: shares by weight whatever the rates, no savings, nothing lost when callers leave."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter

import pytest

from dear_serving.gateway.fair_queue import FairQueue


class Engine:
    """Serves windows one at a time through a queue, in the order they are let in."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.served: list[str] = []
        self._one = asyncio.Lock()

    async def window(self, tenant: str, weight: float = 1.0, cost: int = 10, priority: int = 0) -> None:
        async with self.queue.turn(tenant, weight, cost, priority):
            self.served.append(f"{tenant}{priority or ''}")
            async with self._one:
                await asyncio.sleep(0)


async def serve(engine: Engine, *windows: tuple[object, ...]) -> None:
    await asyncio.gather(*(engine.window(*window) for window in windows))


async def test_a_burst_does_not_hold_up_who_comes_after_it() -> None:
    engine = Engine(FairQueue(alone=20, shared=20))
    await serve(engine, *[("loud",)] * 500, *[("quiet",)] * 10)
    last = max(place for place, tenant in enumerate(engine.served) if tenant == "quiet")
    assert last <= 2 + 2 * 10  # two were in the engine before, then turn by turn


async def test_shares_follow_the_weights() -> None:
    engine = Engine(FairQueue(alone=20, shared=20))
    await serve(engine, *[("a", 1.0)] * 400, *[("b", 3.0)] * 400)
    counted = Counter(engine.served[:400])
    assert counted["b"] / counted["a"] == pytest.approx(3.0, rel=0.05)


async def test_shares_are_of_tokens_not_of_windows() -> None:
    engine = Engine(FairQueue(alone=200, shared=200))
    await serve(engine, *[("long", 1.0, 100)] * 100, *[("short", 1.0, 10)] * 1000)
    counted = Counter(engine.served[:550])
    assert counted["short"] / counted["long"] == pytest.approx(10.0, rel=0.1)


async def test_who_was_idle_saved_nothing_up() -> None:
    engine = Engine(FairQueue(alone=20, shared=20))
    await serve(engine, *[("a",)] * 300)
    engine.served.clear()
    await serve(engine, *[("a",)] * 100, *[("b",)] * 100)
    assert Counter(engine.served[:100])["b"] <= 52


async def test_a_tenants_own_windows_go_by_priority() -> None:
    engine = Engine(FairQueue(alone=10, shared=10))
    await serve(engine, ("a", 1.0, 10, 9), ("a", 1.0, 10, 5), ("a", 1.0, 10, 1), ("a", 1.0, 10, 3))
    assert engine.served == ["a9", "a1", "a3", "a5"]  # the first was let in when it was alone


async def test_less_is_in_the_engines_when_several_ask() -> None:
    now_s = 0.0
    queue = FairQueue(alone=100, shared=30, memory_s=2.0, now_s=lambda: now_s)
    inside = 0
    most = {"alone": 0, "shared": 0, "later": 0}
    phase = "alone"

    async def window(tenant: str) -> None:
        nonlocal inside
        async with queue.turn(tenant, 1.0, 10):
            inside += 1
            most[phase] = max(most[phase], inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(window("a") for _ in range(50)))
    phase = "shared"
    await asyncio.gather(*(window("a" if number % 2 else "b") for number in range(100)))
    now_s, phase = 10.0, "later"
    await asyncio.gather(*(window("a") for _ in range(50)))
    # In "shared" the first of a were let in before b came.
    assert (most["alone"], most["later"]) == (10, 10)
    assert most["shared"] <= 10
    assert queue.cost == 0


async def test_who_leaves_while_waiting_holds_nobody_up() -> None:
    queue = FairQueue(alone=10, shared=10)
    entered = asyncio.Event()

    async def hold() -> None:
        async with queue.turn("a", 1.0, 10):
            entered.set()
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await entered.wait()
    waiting = [asyncio.create_task(hold()) for _ in range(20)]
    await asyncio.sleep(0)
    assert queue.cost == 210
    for task in (*waiting[::2], holding):
        task.cancel()
    await asyncio.sleep(0.01)
    assert queue.cost == 100  # the ten who stayed, one of them inside now
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, holding, return_exceptions=True)
    assert queue.cost == 0
    async with asyncio.timeout(1), queue.turn("b", 1.0, 10):
        pass


@pytest.mark.integration
async def test_a_long_line_costs_no_more_a_window_than_a_short_one() -> None:
    """Every window comes to a head once: a line ten times as long takes about ten times as long."""

    async def seconds(windows: int) -> float:
        engine = Engine(FairQueue(alone=20, shared=20))
        gc.collect()
        gc.disable()  # whose work grows with all that other tests left
        started_s = time.process_time()
        await serve(engine, *[("a",)] * windows)
        taken_s = time.process_time() - started_s
        gc.enable()
        return taken_s

    await seconds(100)
    assert await seconds(5000) < 40 * await seconds(500)


async def test_a_window_larger_than_the_engines_still_finds_a_place_and_counts_whole() -> None:
    engine = Engine(FairQueue(alone=10, shared=10))
    async with asyncio.timeout(1):
        await serve(engine, ("huge", 1.0, 10**6), *[("huge",)] * 5, *[("other",)] * 50)
    assert engine.served == ["huge"] + ["other"] * 50 + ["huge"] * 5


async def test_a_newcomers_window_does_not_wait_for_the_texts_of_others() -> None:
    queue = FairQueue(alone=1000, shared=100)
    never = asyncio.Event()
    inside = Counter[str]()

    async def text(tenant: str) -> None:
        async with queue.turn(tenant, 1.0, 40, tokens=10, is_text=True):
            inside[tenant] += 1
            await never.wait()

    texts = [asyncio.create_task(text("streams")) for _ in range(200)]
    await asyncio.sleep(0.01)
    assert inside["streams"] == 75  # three quarters of what one tenant may have in the engines
    async with asyncio.timeout(1), queue.turn("newcomer", 1.0, 20), queue.turn("newcomer", 1.0, 5):
        pass
    # A tenant's own windows do not wait either.
    async with asyncio.timeout(1), queue.turn("streams", 1.0, 20):
        pass
    more = asyncio.create_task(text("newcomer"))
    await asyncio.sleep(0.01)
    assert inside["newcomer"] == 0  # texts wait for texts
    for one in [*texts, more]:
        one.cancel()
    await asyncio.gather(*texts, more, return_exceptions=True)
    assert queue.cost == 0


async def test_texts_are_not_starved_by_windows() -> None:
    queue = FairQueue(alone=20, shared=20)
    served = list[str]()

    async def window() -> None:
        async with queue.turn("windows", 1.0, 10):
            served.append("window")
            await asyncio.sleep(0)

    async def text() -> None:
        async with queue.turn("texts", 1.0, 10, tokens=10**6, is_text=True):
            served.append("text")

    await asyncio.gather(*(window() for _ in range(100)), text())
    assert "text" in served[:10]


async def test_idle_tenants_are_forgotten() -> None:
    now_s = 0.0
    queue = FairQueue(alone=10, shared=10, memory_s=2.0, now_s=lambda: now_s)
    for number in range(1000):
        now_s += 1.0
        async with queue.turn(f"t{number}", 1.0, 10):
            pass
    assert len(queue._lines) <= 3


async def test_the_rate_is_measured_while_there_is_work() -> None:
    now_s = 0.0
    queue = FairQueue(alone=1000, shared=1000, now_s=lambda: now_s)
    assert queue.rate == 0.0

    async def window() -> None:
        nonlocal now_s
        async with queue.turn("a", 1.0, 10):
            await asyncio.sleep(0)
            now_s += 0.1

    await asyncio.gather(*(window() for _ in range(100)))
    assert queue.rate == pytest.approx(100, rel=0.1)  # tokens a second
