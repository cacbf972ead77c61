"""The process for large bodies: what it answers, how it ends, and that it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from dear_serving.errors import InvalidRequest, WorkerUnavailable
from dear_serving.gateway.worker_process import Buffer, WorkerProcess

pytestmark = pytest.mark.integration


def length(data: Buffer) -> int:
    return len(data)


def echo(times: int, data: Buffer) -> bytes:
    return bytes(data) * times


def refuse(data: Buffer) -> None:
    raise InvalidRequest("documents: one is needed", param="documents")


def fail(data: Buffer) -> None:
    raise ZeroDivisionError(data.decode())


def pid(data: Buffer) -> int:
    return os.getpid()


def open_files(data: Buffer) -> list[str]:
    return [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]


def wait(data: Buffer) -> None:
    time.sleep(60)


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    one = WorkerProcess()
    yield one
    one.close()


async def test_a_function_gets_the_data_and_its_result_comes_back(worker: WorkerProcess) -> None:
    assert worker.pid is None
    assert await worker.run("acme", length, bytearray(5_000_000)) == 5_000_000
    assert await worker.run("acme", partial(echo, 3), b"ab") == b"ababab"
    assert await worker.run("acme", pid, b"") == worker.pid != os.getpid()


async def test_errors_of_requests_come_back_whole_and_others_without_the_callers_text(
    worker: WorkerProcess,
) -> None:
    with pytest.raises(InvalidRequest, match="one is needed") as refused:
        await worker.run("acme", refuse, b"")
    assert refused.value.param == "documents"
    with pytest.raises(RuntimeError, match="ZeroDivisionError in the worker process") as failed:
        await worker.run("acme", fail, b"secret")
    assert "secret" not in str(failed.value)


async def test_it_inherits_no_sockets(worker: WorkerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        assert not any("socket" in one for one in await worker.run("acme", open_files, b""))


async def test_a_killed_worker_fails_its_request_and_the_next_one_works(worker: WorkerProcess) -> None:
    await worker.start(length)
    waiting = asyncio.create_task(worker.run("acme", wait, b""))
    await asyncio.sleep(0.5)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerUnavailable):
        await waiting
    assert await worker.run("acme", length, b"abc") == 3


async def test_a_worker_killed_between_requests_is_not_noticed(worker: WorkerProcess) -> None:
    first = await worker.run("acme", pid, b"")
    os.kill(first, signal.SIGKILL)
    while psutil.Process(first).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await worker.run("acme", pid, b"") != first


async def test_a_job_over_the_time_limit_is_ended() -> None:
    worker = WorkerProcess(timeout_s=0.5)
    try:
        with pytest.raises(WorkerUnavailable):
            await worker.run("acme", wait, b"")
    finally:
        worker.close()


async def test_it_ends_with_close_even_in_the_middle_of_a_job(worker: WorkerProcess) -> None:
    await worker.start(length)
    waiting = asyncio.create_task(worker.run("acme", wait, b""))
    await asyncio.sleep(0.3)
    process = psutil.Process(worker.pid)
    worker.close()
    with pytest.raises(WorkerUnavailable):
        await waiting
    assert not process.is_running()


def test_it_ends_when_the_gateway_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, time\n"
        "from dear_serving.gateway.worker_process import WorkerProcess\n"
        "worker = WorkerProcess()\n"
        "asyncio.run(worker.start(len))\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        process = psutil.Process(int(gateway.stdout.readline()))
        gateway.kill()
    process.wait(10)


async def test_none_starts_after_it_was_closed() -> None:
    worker = WorkerProcess()
    starting = asyncio.create_task(worker.start(length))
    await asyncio.sleep(0)
    worker.close()
    await asyncio.gather(starting, return_exceptions=True)
    assert worker.pid is None
