"""Sends the requests of a load test when its schedule wants them sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dear_tools.load.lists import Lists
from dear_tools.load.mix import Mix
from dear_tools.load.records import Record
from dear_tools.load.sender import Sender
from dear_tools.load.stages import Arrivals, Stage, arrival_times, duration_s, level_at

_REFUSED_WAIT_S = 1.0
_IDLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Schedule:
    """When requests are sent.

    ``open``: at times that do not depend on the answers; stages are requests a second. ``closed``: by callers
    who each wait for their answer before they send again; stages are numbers of callers. ``requests``, where
    given, ends it after so many. Before it all, ``warmup_s`` seconds at the first stage's level do not count.
    """

    kind: Literal["open", "closed"]
    stages: tuple[Stage, ...]
    arrivals: Arrivals = "poisson"
    requests: int | None = None
    warmup_s: float = 0.0

    @property
    def with_warmup(self) -> tuple[Stage, ...]:
        """All stages, the warm-up first."""
        first = self.stages[0].start or self.stages[0].end / 2
        return (Stage(self.warmup_s, first, first), *self.stages) if self.warmup_s else self.stages

    @property
    def duration_s(self) -> float:
        """How long requests are sent, seconds, the warm-up included; the last answers come later."""
        return duration_s(self.with_warmup)


@dataclass(slots=True)
class Progress:
    """What is going on now: ``counted`` of those sent were after the warm-up; ``behind_s`` is how late the
    last request went out."""

    sent: int = 0
    counted: int = 0
    done: int = 0
    behind_s: float = 0.0

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return self.sent - self.done


class Generator:
    """One run of a load test.

    Args:
        observe: told of each request when it is done.
        random: decides arrivals and the mix; lists have their own.
    """

    def __init__(
        self,
        sender: Sender,
        mix: Mix,
        lists: Lists,
        random: random.Random,
        observe: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.progress = Progress()
        self.started_s = 0.0
        self._sender = sender
        self._mix = mix
        self._lists = lists
        self._random = random
        self._observe = observe
        self._stopped = asyncio.Event()
        self._records: list[Record] = []

    def stop(self) -> None:
        """Send nothing more. What is under way is waited for."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to send nothing more."""
        return self._stopped.is_set()

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
                if self._is_over(schedule) or await self._stopped_within(at_s - self.elapsed_s):
                    break
                self._count(at_s, schedule)
                group.create_task(self._one(at_s))

    async def _run_closed(self, schedule: Schedule) -> None:
        most = round(max(max(stage.start, stage.end) for stage in schedule.stages))
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, most)):
                group.create_task(self._caller(number, schedule))

    async def _caller(self, number: int, schedule: Schedule) -> None:
        while (now_s := self.elapsed_s) < schedule.duration_s and not self._is_over(schedule):
            if number >= round(level_at(schedule.with_warmup, now_s)):
                await self._stopped_within(_IDLE_S)  # a ramp has not come to this caller, or has passed it
                continue
            self._count(now_s, schedule)
            record = await self._one(now_s)
            if record.result in ("refused", "unavailable"):
                wait_s = record.retry_after_s or _REFUSED_WAIT_S
                await self._stopped_within(min(wait_s, schedule.duration_s - self.elapsed_s))

    async def _one(self, intended_s: float) -> Record:
        tenant, model = self._mix.draw(self._random)
        asked = self._lists.next()
        record = await self._sender.send(tenant, model, asked, intended_s, self.started_s)
        self._records.append(record)
        self.progress.done += 1
        self.progress.behind_s = record.lag_s
        self._observe(record)
        return record

    def _count(self, at_s: float, schedule: Schedule) -> None:
        self.progress.sent += 1
        self.progress.counted += at_s >= schedule.warmup_s

    def _is_over(self, schedule: Schedule) -> bool:
        enough = schedule.requests is not None and self.progress.counted >= schedule.requests
        return enough or self._stopped.is_set()

    async def _stopped_within(self, seconds: float) -> bool:
        """Let that time pass, or none where it is over; whether the run was stopped."""
        if seconds <= 0:
            await asyncio.sleep(0)  # replies must not starve where the schedule is ahead
        else:
            await asyncio.sleep(seconds)
        return self._stopped.is_set()


def seeds(seed: int) -> tuple[random.Random, random.Random]:
    """Sources of chance for arrivals and mix, and for lists: one does not change what the other draws."""
    return random.Random(f"{seed} schedule"), random.Random(f"{seed} lists")


def in_steady_state(records: Sequence[Record], warmup_s: float) -> list[Record]:
    """The records that count: those whose time to be sent was after the warm-up."""
    return [record for record in records if record.intended_s >= warmup_s]
