"""Which adapters share the engine's batch: at most as many at once as it has slots, each in its turn."""

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
    """Keeps what runs in the engine to as many adapters as its batch has room for.

    vLLM itself lets requests of the adapters that run overtake those of others for as long as the former keep
    coming: a hot adapter would shut a rare one out. Here an adapter whose turn comes takes all with it that
    wait for it at that moment. While its requests run, others of it join them, until somebody has waited for
    another adapter longer than ``patience_s``: then it takes no more, and its slot is free when it is done.

    Args:
        slots: adapters at once, >= 1.
        patience_s: seconds for which those that run may be joined past one that waits.
        now_s: a clock.
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
        """Wait until requests of the adapter may run, lower priorities first, and be one of them."""
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
