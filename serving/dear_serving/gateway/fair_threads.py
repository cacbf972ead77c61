"""Runs what would block the event loop on a few threads, in turn by tenant."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Runner(Protocol):
    """Runs functions: at once, or somewhere else while the event loop goes on."""

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        """What ``function`` returns, or the error that it raises."""
        ...


class Inline:
    """Runs functions at once, for what is too small to block the event loop."""

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        """See the protocol."""
        return function(*args)


class FairThreads:
    """A bounded number of threads. A free one goes to the next tenant that waits, round robin.

    Turns are fair if jobs are short: cut long work into several. A job whose caller was cancelled while it
    runs keeps its thread until it is done.

    Args:
        count: how many jobs run at once. Jobs that hold Python's lock delay the event loop by up to 5 ms for
            each of them, whenever it waits for the lock.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="off-loop")
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the next tenant is the first

    async def run(self, tenant: str, function: Callable[..., T], /, *args: Any) -> T:
        """What ``function`` returns, or the error that it raises, after the tenant's turn has come."""
        await self._turn(tenant)
        loop = asyncio.get_running_loop()

        def give_back(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._leave)

        job = self._pool.submit(function, *args)
        job.add_done_callback(give_back)
        return await asyncio.wrap_future(job)

    def close(self) -> None:
        """Start no further jobs."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came at the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        """Give the thread to the next tenant; it goes to the end of the line."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            turns = self._waiting.pop(tenant)
            turn = turns.popleft()
            if turns:
                self._waiting[tenant] = turns
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._free += 1


@dataclass(frozen=True, slots=True)
class TenantThreads:
    """The threads for one tenant's jobs."""

    threads: FairThreads
    tenant: str

    async def run(self, function: Callable[..., T], /, *args: Any) -> T:
        """See the protocol."""
        return await self.threads.run(self.tenant, function, *args)
