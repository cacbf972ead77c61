"""Shares the engines fairly among tenants: chooses which window goes next under overload."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_RATE_SMOOTHING = 0.2
_RATE_PERIOD_S = 1.0


@dataclass(order=True, slots=True)
class _Waiter:
    priority: int
    number: int
    cost: int = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Line:
    """A tenant's windows. ``tag`` is the tenant's work divided by its weight, on the shared virtual clock."""

    weight: float
    tag: float = 0.0
    waiting: list[_Waiter] = field(default_factory=list)
    in_engine: int = 0
    last_asked_s: float = 0.0


class FairQueue:
    """Start-time fair queueing of windows by tenant; a window's cost is its predicted tokens.

    The next window comes from the waiting tenant with the least work done per weight; idle time gives no
    credit. Windows of one tenant are ordered by priority, then by arrival.

    The tokens in the engines are bounded too, because a window there cannot be overtaken. The bound is
    ``alone`` while one tenant is active and the smaller ``shared`` while several are, so that a new tenant
    waits little and the batch has room for its windows.

    Args:
        alone: maximum tokens in the engines while one tenant is active.
        shared: maximum tokens in the engines while several tenants are active.
        memory_s: how long a tenant counts as active after its last request, in seconds.
        now_s: a monotonic clock.

    Source: Goyal, Vin and Cheng, 1997.
    """

    def __init__(
        self,
        alone: int,
        shared: int,
        memory_s: float = 2.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._alone = alone
        self._shared = shared
        self._memory_s = memory_s
        self._now_s = now_s
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count()
        self._clock = 0.0
        self._waiting_tokens = self._engine_tokens = 0
        self._done_tokens, self._since_s, self._rate = 0, now_s(), 0.0

    @property
    def tokens(self) -> int:
        """Predicted tokens of all windows that wait or are in the engines."""
        return self._waiting_tokens + self._engine_tokens

    def seconds_for(self, tokens: int) -> float:
        """Seconds that the engines need for ``tokens`` at the recently measured rate; 0 without one."""
        return tokens / self._rate if self._rate else 0.0

    @asynccontextmanager
    async def turn(self, tenant: str, weight: float, cost: int, priority: int = 0) -> AsyncIterator[None]:
        """Wait for the window's turn and hold its place in the engines until the block ends.

        Args:
            tenant: the window's tenant.
            weight: the tenant's share, > 0.
            cost: predicted tokens of the window, >= 1.
            priority: the tenant's windows with lower values go first.
        """
        cost = max(1, min(cost, self._shared))  # so that a huge window fits as well
        line = self._lines.setdefault(tenant, _Line(weight))
        line.weight, line.last_asked_s = weight, self._now_s()
        if not line.waiting:
            line.tag = max(line.tag, self._clock)
        waiter = _Waiter(priority, next(self._numbers), cost, asyncio.get_running_loop().create_future())
        heapq.heappush(line.waiting, waiter)
        self._waiting_tokens += cost
        self._serve()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._waiting_tokens -= cost
            else:  # the turn came at the same moment as the cancellation
                self._leave(line, cost, done=False)
            self._serve()
            raise
        done = False
        try:
            yield
            done = True
        finally:
            self._leave(line, cost, done=done)
            self._serve()

    def _serve(self) -> None:
        """Admit windows in turn while there is room in the engines."""
        while (line := self._next_line()) is not None:
            cost = line.waiting[0].cost
            if self._engine_tokens and self._engine_tokens + cost > self._room():
                return
            waiter = heapq.heappop(line.waiting)
            self._clock = line.tag
            line.tag += cost / line.weight
            line.in_engine += 1
            self._waiting_tokens -= cost
            self._engine_tokens += cost
            waiter.turn.set_result(None)

    def _next_line(self) -> _Line | None:
        """The line that goes next, if any waits; cancelled windows at the head of a line are dropped."""
        for line in self._lines.values():
            while line.waiting and line.waiting[0].turn.cancelled():
                heapq.heappop(line.waiting)
        waiting = (line for line in self._lines.values() if line.waiting)
        return min(waiting, key=lambda line: line.tag, default=None)

    def _room(self) -> int:
        recent_s = self._now_s() - self._memory_s
        active = sum(
            1
            for line in self._lines.values()
            if line.waiting or line.in_engine or line.last_asked_s > recent_s
        )
        return self._shared if active > 1 else self._alone

    def _leave(self, line: _Line, cost: int, *, done: bool) -> None:
        line.in_engine -= 1
        self._engine_tokens -= cost
        now_s = self._now_s()
        if done:
            self._done_tokens += cost
        if not self.tokens:  # idle time must not count into the rate
            self._forget_idle(now_s)
        elif now_s - self._since_s >= _RATE_PERIOD_S:
            rate = self._done_tokens / (now_s - self._since_s)
            self._rate += (_RATE_SMOOTHING if self._rate else 1.0) * (rate - self._rate)
            self._done_tokens, self._since_s = 0, now_s

    def _forget_idle(self, now_s: float) -> None:
        """Called when nothing waits or runs: forget tenants without recent requests."""
        self._done_tokens, self._since_s = 0, now_s
        recent_s = now_s - self._memory_s
        self._lines = {name: line for name, line in self._lines.items() if line.last_asked_s > recent_s}
