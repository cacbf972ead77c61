"""Limits the adapters in the engine's batch to its slots, and lets each adapter have its turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(order=True)
class _Waiter:
    priority: int
    arrival: int
    adapter: str = field(compare=False)
    since_s: float = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class AdapterSlots:
    """Bounds the number of adapters that run in the engine at once.

    In vLLM, requests of running adapters overtake those of other adapters as long as they keep coming, so a
    hot adapter would starve a rare one. Here, when an adapter's turn comes, all its waiting requests start.
    While they run, new requests of the same adapter join them, until a request of another adapter has waited
    longer than ``patience_s``. Then the adapter admits no more requests, and its slot is free when they end.

    Args:
        slots: maximum adapters at once, >= 1.
        patience_s: how long requests of running adapters may overtake a waiting one, in seconds.
        now_s: a monotonic clock.
    """

    def __init__(
        self, slots: int, patience_s: float = 0.25, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._slots = slots
        self._patience_s = patience_s
        self._now_s = now_s
        self._running: Counter[str] = Counter()
        self._waiting: list[_Waiter] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def hold(self, adapter: str, priority: int) -> AsyncIterator[None]:
        """Wait for the adapter's turn, lower priorities first, and hold its slot until the block ends."""
        waiter = _Waiter(
            priority,
            next(self._arrivals),
            adapter,
            self._now_s(),
            asyncio.get_running_loop().create_future(),
        )
        insort(self._waiting, waiter)
        self._admit()
        try:
            await waiter.turn
            yield
        finally:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._running[adapter] -= 1
                if not self._running[adapter]:
                    del self._running[adapter]
            waiter.turn.cancel()
            self._admit()

    def _admit(self) -> None:
        now_s, opened, left = self._now_s(), set[str](), list[_Waiter]()
        closed = False
        for waiter in self._waiting:
            adapter = waiter.adapter
            if waiter.turn.cancelled():
                continue
            if not closed and adapter not in self._running and len(self._running) < self._slots:
                opened.add(adapter)
            if adapter in opened or (not closed and adapter in self._running):
                self._running[adapter] += 1
                waiter.turn.set_result(None)
                continue
            left.append(waiter)
            closed = closed or now_s - waiter.since_s > self._patience_s
        self._waiting = left
