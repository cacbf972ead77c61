"""Shares the engines fairly among tenants: chooses what goes next under overload."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from dear_serving.metrics import Load
from dear_serving.protocol import TEXT_SHARE

_RATE_SMOOTHING = 0.2
_RATE_PERIOD_S = 1.0


class Work(NamedTuple):
    """What a tenant has in a queue or, by way of it, in the engines, and the tenant's weight."""

    weight: float
    cost: int


@dataclass(frozen=True, slots=True)
class Share:
    """This queue's part, where several queues use the same engines.

    Args:
        room: most tokens in the engines by this queue; infinite: the queue's own bounds hold.
        parts: how much of a tenant's weight counts here, from 0 to 1.
        new_part: the same for other tenants; also the part of the queue's own bounds, if these hold.
    """

    room: float = math.inf
    parts: Mapping[str, float] = field(default_factory=dict)
    new_part: float = 1.0

    @classmethod
    def equal(cls, queues: int) -> Share:
        """One of as many equal parts."""
        return cls(new_part=1 / queues)


@dataclass(order=True, slots=True)
class _Waiter:
    priority: int
    number: int
    cost: int = field(compare=False)
    tokens: int = field(compare=False)
    is_text: bool = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Line:
    """A tenant's work. ``tag`` is what it had of the engines by its weight, on the shared virtual clock."""

    weight: float
    tag: float = 0.0
    windows: list[_Waiter] = field(default_factory=list)
    texts: list[_Waiter] = field(default_factory=list)
    in_engine: int = 0
    cost: int = 0
    engine_cost: int = 0
    last_asked_s: float = 0.0

    @property
    def waiting(self) -> bool:
        return bool(self.windows or self.texts)

    def heads(self) -> list[_Waiter]:
        """The first window and the first text, in turn; cancelled ones are dropped."""
        for waiting in (self.windows, self.texts):
            while waiting and waiting[0].turn.cancelled():
                heapq.heappop(waiting)
        return sorted(waiting[0] for waiting in (self.windows, self.texts) if waiting)


class FairQueue:
    """Start-time fair queueing of windows and free texts by tenant.

    The next one comes from the waiting tenant with the least work done per weight; idle time gives no credit.
    Windows of one tenant are ordered by priority, then by arrival, and so are its texts.

    The tokens in the engines are bounded too, because a window there cannot be overtaken. The bound is
    ``alone`` while one tenant is active and the smaller ``shared`` while several are, so that a new tenant
    waits little and the batch has room for its windows. A text can last long, so texts never have more than
    three quarters of the bound that holds, and what they had before does not count against windows: a new
    tenant's window does not wait until other tenants' texts have ended.

    Set ``engines`` as engines come and go, and ``share`` where other queues use the same engines.

    Args:
        alone: maximum tokens in an engine while one tenant is active.
        shared: maximum tokens in an engine while several tenants are active.
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
        self.engines = 1
        self.share = Share()
        self._memory_s = memory_s
        self._now_s = now_s
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count()
        self._clock = 0.0
        self._waiting_cost = self._engine_cost = 0
        self._window_tokens = self._text_tokens = 0
        self._done_cost, self._since_s, self.rate = 0, now_s(), 0.0
        """``rate``: cost a second that the engines got done lately; 0: not known."""

    @property
    def alone(self) -> int:
        """Maximum tokens in the engines while one tenant is active."""
        return self._alone * self.engines

    @property
    def shared(self) -> int:
        """Maximum tokens in the engines while several tenants are active."""
        return self._shared * self.engines

    def work(self) -> dict[str, Work]:
        """What the active tenants have here."""
        recent_s = self._now_s() - self._memory_s
        return {
            tenant: Work(line.weight, line.cost)
            for tenant, line in self._lines.items()
            if line.cost or line.last_asked_s > recent_s
        }

    def loads(self) -> dict[str, Load]:
        """What the tenants that have work here have; safe to call from any thread."""
        return {
            tenant: Load(line.weight, line.cost - line.engine_cost, line.engine_cost)
            for tenant, line in list(self._lines.items())
            if line.cost
        }

    def cost_of(self, tenant: str) -> int:
        """The cost of all of a tenant's that waits or is in the engines."""
        line = self._lines.get(tenant)
        return line.cost if line is not None else 0

    @property
    def cost(self) -> int:
        """The cost of all that waits or is in the engines."""
        return self._waiting_cost + self._engine_cost

    @asynccontextmanager
    async def turn(
        self,
        tenant: str,
        weight: float,
        cost: int,
        priority: int = 0,
        *,
        tokens: int | None = None,
        is_text: bool = False,
    ) -> AsyncIterator[None]:
        """Wait for the tenant's turn and hold a place in the engines until the block ends.

        Args:
            tenant: whose work it is.
            weight: the tenant's share, > 0.
            cost: what it takes of the engines, >= 1: what the tenant has had counts in this.
            priority: the tenant's windows, or texts, with lower values go first.
            tokens: most tokens in the engines, >= 1; None: ``cost``.
            is_text: a free text, not a window.
        """
        line = self._lines.setdefault(tenant, _Line(weight))
        line.weight, line.last_asked_s = weight, self._now_s()
        if not line.waiting:
            line.tag = max(line.tag, self._clock)
        waiter = _Waiter(
            priority,
            next(self._numbers),
            cost,
            max(1, min(cost if tokens is None else tokens, self.shared)),  # so that a huge one fits as well
            is_text,
            asyncio.get_running_loop().create_future(),
        )
        heapq.heappush(line.texts if is_text else line.windows, waiter)
        self._waiting_cost += cost
        line.cost += cost
        self._serve()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._waiting_cost -= cost
                line.cost -= cost
            else:  # the turn came at the same moment as the cancellation
                self._leave(line, waiter, done=False)
            self._serve()
            raise
        done = False
        try:
            yield
            done = True
        finally:
            self._leave(line, waiter, done=done)
            self._serve()

    def _serve(self) -> None:
        """Admit in turn while there is room in the engines."""
        while (found := self._next()) is not None:
            tenant, line, waiter = found
            heapq.heappop(line.texts if waiter.is_text else line.windows)
            self._clock = line.tag
            line.tag += waiter.cost / (line.weight * self.share.parts.get(tenant, self.share.new_part))
            line.in_engine += 1
            self._waiting_cost -= waiter.cost
            self._engine_cost += waiter.cost
            line.engine_cost += waiter.cost
            if waiter.is_text:
                self._text_tokens += waiter.tokens
            else:
                self._window_tokens += waiter.tokens
            waiter.turn.set_result(None)

    def _next(self) -> tuple[str, _Line, _Waiter] | None:
        """What goes next, if there is room for it; only a text that waits for other texts is overtaken."""
        room = self._room()
        text_room = int(room * TEXT_SHARE)
        texts = min(self._text_tokens, text_room)
        for tenant, line in sorted(self._lines.items(), key=lambda item: item[1].tag):
            for waiter in line.heads():
                if waiter.is_text:
                    if self._text_tokens and self._text_tokens + waiter.tokens > text_room:
                        continue
                    needed = self._window_tokens + self._text_tokens + min(waiter.tokens, text_room)
                    is_first = not self._window_tokens + self._text_tokens
                else:
                    needed = self._window_tokens + texts + waiter.tokens
                    is_first = not self._window_tokens
                return (tenant, line, waiter) if needed <= room or is_first else None
        return None

    def _room(self) -> float:
        recent_s = self._now_s() - self._memory_s
        active = sum(
            1
            for line in self._lines.values()
            if line.waiting or line.in_engine or line.last_asked_s > recent_s
        )
        most, share = (self.shared if active > 1 else self.alone), self.share
        return max(1.0, most * share.new_part) if math.isinf(share.room) else min(most, share.room)

    def _leave(self, line: _Line, waiter: _Waiter, *, done: bool) -> None:
        line.in_engine -= 1
        line.cost -= waiter.cost
        line.engine_cost -= waiter.cost
        self._engine_cost -= waiter.cost
        if waiter.is_text:
            self._text_tokens -= waiter.tokens
        else:
            self._window_tokens -= waiter.tokens
        now_s = self._now_s()
        if done:
            self._done_cost += waiter.cost
        if not self.cost:  # idle time must not count into the rate
            self._forget_idle(now_s)
        elif now_s - self._since_s >= _RATE_PERIOD_S:
            rate = self._done_cost / (now_s - self._since_s)
            self.rate += (_RATE_SMOOTHING if self.rate else 1.0) * (rate - self.rate)
            self._done_cost, self._since_s = 0, now_s

    def _forget_idle(self, now_s: float) -> None:
        """Called when nothing waits or runs: forget tenants without recent requests."""
        self._done_cost, self._since_s = 0, now_s
        recent_s = now_s - self._memory_s
        self._lines = {name: line for name, line in self._lines.items() if line.last_asked_s > recent_s}
