"""A load test: its parameters, and one run of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dear_client.exchange import Terms
from dear_client.options import RerankOptions
from dear_tools.load.generator import Generator, in_steady_state
from dear_tools.load.lists import Lists
from dear_tools.load.mix import Mix
from dear_tools.load.objective import Objective
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule
from dear_tools.load.sender import Sender
from dear_tools.load.summary import Summary, summarise

_VIEW_S = 0.25


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What every run of a test has in common.

    Args:
        terms: where to, how long, and how often a request is tried.
        options: of every request.
    """

    terms: Terms
    mix: Mix
    lists: Lists
    objective: Objective
    options: RerankOptions
    random: random.Random


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: its figures, and the records that they are of."""

    schedule: Schedule
    summary: Summary
    records: tuple[Record, ...]
    was_stopped: bool


class View(Protocol):
    """Shows how a run goes."""

    def update(self, generator: Generator, schedule: Schedule) -> None:
        """Called a few times a second."""


async def run(
    test: LoadTest,
    schedule: Schedule,
    view: View,
    *,
    watch: Callable[[Record, Generator], None] | None = None,
) -> Outcome:
    """Run one schedule after its warm-up. The first Ctrl-C ends it early, with what there is.

    Args:
        watch: called with each request that counts, when it is done; may stop the generator.

    Raises:
        ToolError: there are no more lists.
    """

    def observe(record: Record) -> None:
        if watch is not None and record.intended_s >= schedule.warmup_s:
            watch(record, generator)

    async with Sender(test.terms, test.options) as sender:
        generator = Generator(sender, test.mix, test.lists, test.random, observe)
        cpu_s, started_s = time.process_time(), time.perf_counter()
        with _stopped_by_interrupt(generator) as was_stopped:
            running = asyncio.create_task(generator.run(schedule))
            try:
                while not running.done():
                    view.update(generator, schedule)
                    await asyncio.wait([running], timeout=_VIEW_S)
                records = await running
            finally:
                running.cancel()  # before its connections are closed, where it is not done
                await asyncio.wait([running])
        wall_s = time.perf_counter() - started_s
        cpu_s = time.process_time() - cpu_s
    counted = in_steady_state(records, schedule.warmup_s)
    summary = summarise(
        counted,
        test.objective,
        start_s=schedule.warmup_s,
        end_s=generator.offered_until_s,
        generator_cpu=cpu_s / wall_s,
    )
    return Outcome(schedule, summary, tuple(counted), bool(was_stopped))


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _stopped_by_interrupt(generator: Generator) -> Iterator[list[bool]]:
    """The first SIGINT stops the generator, the second one everything. The list given is empty until then."""
    stopped: list[bool] = []
    loop = asyncio.get_running_loop()

    def on_interrupt() -> None:
        stopped.append(True)
        generator.stop()
        loop.remove_signal_handler(signal.SIGINT)

    with contextlib.suppress(RuntimeError, NotImplementedError):  # not in the main thread: in tests
        loop.add_signal_handler(signal.SIGINT, on_interrupt)
    try:
        yield stopped
    finally:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
