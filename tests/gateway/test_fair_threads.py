"""Jobs off the event loop: bounded, in turn by tenant, and none lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from dear_serving.gateway.fair_threads import FairThreads, Inline, TenantThreads


@pytest.fixture
def threads() -> Iterator[FairThreads]:
    one = FairThreads(1)
    yield one
    one.close()


async def test_a_job_runs_off_the_loop_and_its_answer_or_error_comes_back(threads: FairThreads) -> None:
    assert await TenantThreads(threads, "acme").run(threading.get_ident) != threading.get_ident()
    assert await Inline().run(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await threads.run("acme", lambda: 1 / 0)
    assert await threads.run("acme", int, "7") == 7


async def test_tenants_take_turns_however_many_jobs_each_has(threads: FairThreads) -> None:
    done: list[str] = []
    release = threading.Event()
    first = asyncio.create_task(threads.run("big", release.wait))
    jobs = [asyncio.create_task(threads.run("big", done.append, "big")) for _ in range(5)]
    jobs += [asyncio.create_task(threads.run("small", done.append, "small")) for _ in range(2)]
    await asyncio.sleep(0.01)
    release.set()
    await asyncio.gather(first, *jobs)
    assert done == ["big", "small", "big", "small", "big", "big", "big"]


async def test_no_more_jobs_run_at_once_than_there_are_threads() -> None:
    threads, running, most = FairThreads(2), 0, 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(f"{number % 3}", job) for number in range(20)))
    threads.close()
    assert most == 2


async def test_a_cancelled_job_gives_its_thread_back_when_it_is_done(threads: FairThreads) -> None:
    release = threading.Event()
    done: list[str] = []
    running = asyncio.create_task(threads.run("acme", release.wait))
    waiting = asyncio.create_task(threads.run("acme", done.append, "waiting"))
    behind = asyncio.create_task(threads.run("acme", done.append, "behind"))
    await asyncio.sleep(0.01)
    running.cancel()
    waiting.cancel()
    await asyncio.wait([running, waiting])
    assert not behind.done()
    release.set()
    await behind
    assert done == ["behind"]
    assert await threads.run("acme", int, "7") == 7
