"""Closed-loop load: a fixed number of callers, each of whom sends its next request when it has its reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

from benchmarks.quartiles import percentile

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Load(Generic[Reply]):
    """What one load saw: a latency and a reply for each request, in the order of their numbers."""

    concurrency: int
    wall_s: float
    latencies_ms: tuple[float, ...]
    replies: tuple[Reply, ...]

    @property
    def requests_per_s(self) -> float:
        """Throughput: requests over the wall time from the first one sent to the last one answered."""
        return len(self.latencies_ms) / self.wall_s

    def latency_ms(self, share: float = 0.5) -> float:
        """A percentile of the latencies; the median as it stands."""
        return percentile(self.latencies_ms, share)


async def closed_loop(
    send: Callable[[int], Awaitable[Reply]], concurrency: int, requests: int
) -> Load[Reply]:
    """Send requests 0 to ``requests - 1``, ``concurrency`` of them at a time. The first failure ends it.

    Args:
        send: sends the request of that number and returns its reply.
        concurrency: callers, >= 1.
        requests: how many in all, >= 1.
    """
    numbers = iter(range(requests))
    latencies_ms: dict[int, float] = {}
    replies: dict[int, Reply] = {}

    async def caller() -> None:
        for number in numbers:
            started_s = time.perf_counter()
            replies[number] = await send(number)
            latencies_ms[number] = (time.perf_counter() - started_s) * 1e3

    started_s = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, requests)):
                group.create_task(caller())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    wall_s = time.perf_counter() - started_s
    order = range(requests)
    return Load(
        concurrency=concurrency,
        wall_s=wall_s,
        latencies_ms=tuple(latencies_ms[number] for number in order),
        replies=tuple(replies[number] for number in order),
    )


def http_client(base_url: str) -> httpx.AsyncClient:
    """A client for loads: as many connections as callers, one of them kept for the next request.

    httpx asks every idle connection that it keeps whether it still stands, for every request it sends: a
    burst over 64 kept connections takes it seconds of waiting for a core beside a busy server, and the
    requests trickle in one by one. A new connection costs a fraction of a millisecond.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1)
    return httpx.AsyncClient(base_url=base_url, timeout=300, limits=limits)
