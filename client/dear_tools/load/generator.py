"""Sends the requests of a load test on schedule."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dear_tools.load.lists import List, Lists
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule, arrival_times, level_at

_REFUSED_WAIT_S = 1.0
_TICK_S = 0.02


@dataclass(slots=True)
class Progress:
    """What is going on now: ``counted`` of those sent were after the warm-up; ``behind_s`` is how late the
    last request went out; ``calling`` are the numbers of the closed loop's callers at work."""

    sent: int = 0
    counted: int = 0
    done: int = 0
    behind_s: float = 0.0
    calling: set[int] = field(default_factory=set)

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return self.sent - self.done


class Sends(Protocol):
    """Sends one request of a list: Sender, or another way to rank in the same loop."""

    async def send(
        self, tenant: Tenant, model: str, asked: List, intended_s: float, start_s: float
    ) -> Record:
        """See Sender.send."""


class Draws(Protocol):
    """Who sends the next request, and to which model: Mix."""

    def draw(self, random: random.Random) -> tuple[Tenant, str]:
        """See Mix.draw."""


class Generator:
    """One run of a load test.

    Args:
        observe: called with each request when it is done.
        random: decides arrivals and the mix; lists have their own.
    """

    def __init__(
        self,
        sender: Sends,
        mix: Draws,
        lists: Lists,
        random: random.Random,
        observe: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.progress = Progress()
        self.started_s = time.perf_counter()
        self._due_s = 0.0
        self._stopped_s = math.inf
        self._sender = sender
        self._mix = mix
        self._lists = lists
        self._random = random
        self._observe = observe
        self._over = asyncio.Event()
        self._records: list[Record] = []

    def stop(self) -> None:
        """Send nothing more; wait for requests in flight."""
        self._stopped_s = min(self._stopped_s, self.elapsed_s)
        self._over.set()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to send nothing more."""
        return self._stopped_s < math.inf

    @property
    def offered_until_s(self) -> float:
        """When the load ended, once it has: with the schedule, when it was stopped, or when the request after
        the last of those asked for was due."""
        return min(self._due_s, self._stopped_s)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started_s

    async def run(self, schedule: Schedule) -> list[Record]:
        """Send everything and wait for every answer; the records in the order of the answers.

        Raises:
            ToolError: there are no more lists.
        """
        self.started_s = time.perf_counter()
        try:
            await (self._run_open(schedule) if schedule.kind == "open" else self._run_closed(schedule))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return self._records

    async def _run_open(self, schedule: Schedule) -> None:
        async with asyncio.TaskGroup() as group:
            for at_s in arrival_times(schedule.with_warmup, schedule.arrivals, self._random):
                self._due_s = at_s
                if self._over.is_set() or await self._over_within(at_s - self.elapsed_s):
                    return
                self._count(at_s, schedule)
                group.create_task(self._one(at_s))
            self._due_s = schedule.duration_s  # none is due in what is left, but it is part of the load
            await self._over_within(schedule.duration_s - self.elapsed_s)

    async def _run_closed(self, schedule: Schedule) -> None:
        calling = self.progress.calling
        async with asyncio.TaskGroup() as group:
            while (now_s := self.elapsed_s) < schedule.duration_s and not self._over.is_set():
                for number in range(round(level_at(schedule.with_warmup, now_s))):
                    if number not in calling:
                        calling.add(number)
                        group.create_task(self._caller(number, schedule))
                await self._over_within(min(_TICK_S, schedule.duration_s - now_s))
        self._due_s = min(schedule.duration_s, self.elapsed_s)

    async def _caller(self, number: int, schedule: Schedule) -> None:
        """Send until the load is over, or a falling ramp has fewer callers."""
        while number < round(level_at(schedule.with_warmup, self.elapsed_s)) and not self._over.is_set():
            now_s = self.elapsed_s
            self._count(now_s, schedule)
            record = await self._one(now_s)
            if record.result in ("refused", "unavailable"):
                wait_s = record.retry_after_s or _REFUSED_WAIT_S
                await self._over_within(min(wait_s, schedule.duration_s - self.elapsed_s))
        self.progress.calling.discard(number)

    async def _one(self, intended_s: float) -> Record:
        tenant, model = self._mix.draw(self._random)
        asked = self._lists.next()
        self.progress.behind_s = self.elapsed_s - intended_s
        record = await self._sender.send(tenant, model, asked, intended_s, self.started_s)
        self._records.append(record)
        self.progress.done += 1
        self._observe(record)
        return record

    def _count(self, at_s: float, schedule: Schedule) -> None:
        self.progress.sent += 1
        self.progress.counted += at_s >= schedule.warmup_s
        if self.progress.counted == schedule.requests:
            self._over.set()

    async def _over_within(self, seconds: float) -> bool:
        """Wait so long, or until there is nothing more to send; returns whether there is not."""
        if seconds <= 0:
            await asyncio.sleep(0)  # replies must not starve where the schedule is ahead
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._over.wait()
        return self._over.is_set()


def in_steady_state(records: Sequence[Record], warmup_s: float) -> list[Record]:
    """The records that count: those whose time to be sent was after the warm-up."""
    return [record for record in records if record.intended_s >= warmup_s]
