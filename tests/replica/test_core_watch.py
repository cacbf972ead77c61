"""A replica whose vLLM core dies or hangs ends its process, and one that is only busy does not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dear_serving.replica.core_watch import core_is_lost
from tests.conftest import ROOT


class Core:
    """A vLLM core that may die, and answers after a while or never."""

    def __init__(self, answer_s: float = 0.0) -> None:
        self.errored = False
        self.asked = 0
        self._answer_s = answer_s

    async def is_sleeping(self) -> bool:
        self.asked += 1
        await asyncio.sleep(self._answer_s)
        return False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.replica.core_watch._LOOK_S", 0.01)
    monkeypatch.setattr("dear_serving.replica.core_watch._ASK_EVERY_S", 0.05)


async def test_a_dead_core_is_lost_at_once() -> None:
    core = Core()
    watch = asyncio.create_task(core_is_lost(lambda: core, stall_s=60))
    await asyncio.sleep(0.1)
    assert not watch.done()
    core.errored = True
    async with asyncio.timeout(10):
        assert await watch == "vLLM's core died"


async def test_a_core_that_answers_nothing_is_lost_after_the_stall_timeout() -> None:
    core = Core(answer_s=600)
    async with asyncio.timeout(20):
        assert "engine.stall_timeout_s: 0.5" in await core_is_lost(lambda: core, stall_s=0.5)
    assert core.asked == 1


async def test_a_core_that_answers_late_is_not_lost() -> None:
    core = Core(answer_s=0.2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await core_is_lost(lambda: core, stall_s=60)
    assert core.asked > 1


async def test_the_core_that_is_watched_is_the_one_of_now() -> None:
    first, second = Core(), Core()
    first.errored = True
    cores = [second, first]
    async with asyncio.timeout(10):
        assert await core_is_lost(lambda: cores.pop() if len(cores) > 1 else first, stall_s=60)


@pytest.mark.integration
def test_the_process_ends_with_its_children_though_they_and_its_threads_would_go_on() -> None:
    code = """
import asyncio, subprocess, sys, threading, time
from dear_serving.replica.core_watch import leave_with_core
class Core:
    errored = True
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
threading.Thread(target=time.sleep, args=(600,)).start()
print(child.pid, flush=True)
asyncio.run(leave_with_core(Core, 60))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.wait(30) == 1
    deadline_s = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline_s:
            psutil.Process(child).send_signal(signal.SIGKILL)
            pytest.fail("the child is still there")
        time.sleep(0.05)
