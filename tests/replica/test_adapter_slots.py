"""AdapterSlots: as many adapters at once as there is room for, each in its turn, none shut out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dear_serving.replica.adapter_slots import AdapterSlots


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Batch:
    """Requests that run until they are told to end."""

    def __init__(self, slots: int, patience_s: float = 1.0) -> None:
        self.clock = Clock()
        self.slots = AdapterSlots(slots, patience_s, self.clock)
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str, priority: int = 0) -> None:
        """Requests such as ``a1``, for adapter ``a``."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._request(name, priority))
            await asyncio.sleep(0)
        await self.settle()

    async def go(self, *names: str) -> None:
        """They end."""
        for name in names:
            self._ends[name].set()
        await self.settle()

    async def leave(self, name: str) -> None:
        """Its caller gives up."""
        self._tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _request(self, name: str, priority: int) -> None:
        async with self.slots.hold(name[0], priority):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)


def together(names: Sequence[str]) -> int:
    return len({name[0] for name in names})


async def test_no_more_adapters_run_at_once_than_there_are_slots() -> None:
    batch = Batch(2)
    await batch.come("a1", "b1", "c1", "a2")
    assert batch.running == ["a1", "b1", "a2"]
    await batch.go("a1")
    assert batch.running == ["b1", "a2"]
    await batch.go("a2")
    assert batch.running == ["b1", "c1"]


async def test_an_adapter_takes_all_with_it_that_wait_for_it() -> None:
    batch = Batch(1)
    await batch.come("a1", "b1", "c1", "b2", "b3")
    await batch.go("a1")
    assert batch.running == ["b1", "b2", "b3"]


async def test_a_hot_adapter_does_not_shut_a_rare_one_out() -> None:
    """Without the end of patience the hot one would go on for ever: its requests overlap."""
    batch = Batch(1, patience_s=1.0)
    await batch.come("a1", "b1")
    await batch.come("a2")
    assert batch.running == ["a1", "a2"]
    batch.clock.now_s = 1.5
    await batch.come("a3")
    await batch.go("a1", "a2")
    assert batch.running == ["b1"]
    await batch.go("b1")
    assert batch.running == ["a3"]


async def test_every_adapter_has_its_turn_however_many_there_are() -> None:
    batch = Batch(2, patience_s=0.0)
    names = [chr(ord("a") + number) + "1" for number in range(20)]
    await batch.come(*names)
    served: list[str] = []
    while batch.running:
        assert together(batch.running) <= 2
        served += batch.running
        batch.clock.now_s += 1
        # The hottest comes again and again.
        await batch.come(f"a{len(served) + 1}")
        await batch.go(*[name for name in served if name in batch.running])
        if len(served) > 60:
            break
    assert served.index("t1") <= 21
    assert set(names) <= set(served)


async def test_lower_priorities_go_first() -> None:
    batch = Batch(1)
    await batch.come("a1")
    await batch.come("b1", priority=5)
    await batch.come("c1", priority=1)
    await batch.go("a1")
    assert batch.running == ["c1"]


async def test_who_gives_up_frees_the_slot_or_the_place() -> None:
    batch = Batch(1)
    await batch.come("a1", "b1", "c1")
    await batch.leave("b1")
    await batch.leave("a1")
    assert batch.running == ["c1"]
    await batch.leave("c1")
    await batch.come("d1")
    assert batch.running == ["d1"]


@pytest.mark.parametrize("slots", [1, 3])
async def test_nothing_is_left_behind(slots: int) -> None:
    batch = Batch(slots)
    names = [f"{adapter}{number}" for number in range(5) for adapter in "abcde"]
    await batch.come(*names)
    for _ in names:
        await batch.go(*batch.running)
    assert batch.running == []
    assert not batch.slots._running
    assert not batch.slots._waiting
