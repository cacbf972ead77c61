"""A process and all it started: listed, held still, and what CPU time it used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import psutil


def family(pid: int) -> list[psutil.Process]:
    """A process and its living descendants, parents first; empty where it has ended."""
    try:
        head = psutil.Process(pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, that a process and its living descendants have used so far."""
    used_s = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used_s += times.user + times.system
    return used_s


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop these processes and all their descendants inside the block, and let them go on after it.

    Servers that wait still wake up many times a second, and threads that meet at a barrier after every
    operation, as PyTorch's do, lose far more to that than the CPU time it takes.
    """
    stopped: list[psutil.Process] = []
    try:
        for pid in pids:
            for process in family(pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
                    stopped.append(process)
        yield
    finally:
        for process in reversed(stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
