"""The limit of an engine's start, against real processes that hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from dear_serving.errors import StartupError
from dear_serving.replica.start_deadline import start_deadline

LATE = r"^the engine did not start within 0\.[25] s \(engine\.start_timeout_s\)$"


def hanging_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


async def test_a_start_that_waits_is_ended() -> None:
    with pytest.raises(StartupError, match=LATE):
        async with start_deadline(0.2):
            await asyncio.sleep(600)


async def test_a_start_that_blocks_the_event_loop_is_ended_with_its_processes() -> None:
    """As vLLM does: it polls for its process inside the loop, and fails when the process dies."""
    other = hanging_process()
    with pytest.raises(StartupError, match=LATE):
        async with start_deadline(0.5):
            child = hanging_process()
            child.wait()
            raise RuntimeError("Engine core initialization failed")
    assert child.returncode != 0
    assert other.poll() is None  # it was there before
    other.kill()
    other.wait()


async def test_a_start_in_time_keeps_its_processes_and_its_errors() -> None:
    child = hanging_process()
    try:
        async with start_deadline(0.2):
            pass
        with pytest.raises(ValueError, match="own"):
            async with start_deadline(0.2):
                raise ValueError("own")
        await asyncio.sleep(0.3)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


@pytest.mark.integration
def test_a_process_that_cannot_be_interrupted_ends() -> None:
    stuck = """
import asyncio, time
from dear_serving.replica.start_deadline import start_deadline

async def main():
    async with start_deadline(0.2, grace_s=0.2):
        time.sleep(600)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", stuck], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "the engine did not start within 0.2 s (engine.start_timeout_s)\n"
