"""A process beside the gateway for work that would hold Python's lock, such as parsing megabytes of JSON."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import IO, Any, TypeVar

from dear_serving.errors import RequestError, WorkerUnavailable
from dear_serving.gateway.fair_threads import FairThreads

T = TypeVar("T")
Buffer = bytes | bytearray

_LENGTH_BYTES = 8
_PIPE_BYTES = 1024 * 1024


class WorkerProcess:
    """Runs one function at a time in a process of its own, in turn by tenant.

    The process starts with the first job or with ``start``, and anew after it died. It inherits no sockets,
    and ends with ``close`` or, since it then reads the end of its input, with this process.

    Args:
        timeout_s: a job that takes longer is ended with the process.
    """

    def __init__(self, timeout_s: float = 20.0) -> None:
        self._timeout_s = timeout_s
        self._thread = FairThreads(1)  # all that follows happens on it
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Lock()  # else a process could start after ``close``
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return self._process.pid if self._process is not None else None

    async def start(self, function: Callable[..., Any]) -> None:
        """Start the process and import what ``function`` needs, so that the first job need not wait."""
        with contextlib.suppress(RequestError):
            await self.run("", partial(_imported, function), b"")

    async def run(self, tenant: str, function: Callable[[Buffer], T], data: Buffer) -> T:
        """What ``function(data)`` returns.

        Args:
            tenant: whose turn it takes.
            function: of a module, or a functools.partial of one; it and its result are pickled.
            data: sent as it is.

        Raises:
            RequestError: raised by the function.
            WorkerUnavailable: the process died or took too long.
        """
        done, result = await self._thread.run(tenant, self._exchange, pickle.dumps(function), data)
        if not done:
            raise result
        value: T = result
        return value

    def close(self) -> None:
        """End the process, even in the middle of a job."""
        self._thread.close()
        with self._closing:
            self._closed = True
            process = self._process
        if process is not None:
            self._end(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        if self._process is not None:
            self._end(self._process)
        # Importable is what is importable here. File descriptors other than the pipes are closed.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._closing:
            if self._closed:
                raise WorkerUnavailable("the server is stopping", retry_after_s=1.0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pipesize=_PIPE_BYTES,
            )
            return self._process

    def _exchange(self, function: bytes, data: Buffer) -> tuple[bool, Any]:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = threading.Timer(self._timeout_s, process.kill)
        deadline.start()
        try:
            _write(process.stdin, function)
            _write(process.stdin, data)
            result: tuple[bool, Any] = pickle.loads(_read(process.stdout))
            return result
        except (OSError, EOFError, ValueError):  # ValueError: closed meanwhile
            self._end(process)
            raise WorkerUnavailable(
                "the process that reads large bodies ended, try again", retry_after_s=1.0
            ) from None
        finally:
            deadline.cancel()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]  # both are pipes
        if self._process is process:
            self._process = None


def _write(pipe: IO[bytes], data: Buffer) -> None:
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(_read_exactly(pipe, _LENGTH_BYTES), "big")
    return _read_exactly(pipe, length)


def _read_exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _answer(function: bytes, data: bytes) -> tuple[bool, Any]:
    try:
        return True, pickle.loads(function)(data)
    except RequestError as error:
        return False, error
    except Exception as error:  # its text may be the caller's, so it stays here
        where = "".join(traceback.format_tb(error.__traceback__))
        return False, RuntimeError(f"{type(error).__name__} in the worker process\n{where}")


def _imported(function: Callable[..., Any], data: Buffer) -> None:
    """Nothing: the function was unpickled, so its module is there."""


def _serve() -> None:
    """The process itself: answers jobs until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the gateway ends us
    gc.disable()  # what JSON becomes has no cycles, and collecting takes seconds beside millions of objects
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed goes to the log
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, data = _read(source), _read(source)
            _write(sink, pickle.dumps(_answer(function, data), protocol=pickle.HIGHEST_PROTOCOL))
            del function, data


if __name__ == "__main__":
    _serve()
