"""Closed-loop load, without a network."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.load import Load, closed_loop


@pytest.mark.parametrize(("concurrency", "requests"), [(1, 3), (4, 10), (8, 3)])
async def test_so_many_callers_send_every_request_once(concurrency: int, requests: int) -> None:
    sent: list[int] = []
    in_flight = most = 0

    async def send(number: int) -> int:
        nonlocal in_flight, most
        sent.append(number)
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001 * (number % 3))
        in_flight -= 1
        return number * 10

    load = await closed_loop(send, concurrency, requests)
    assert sorted(sent) == list(range(requests))
    assert most == min(concurrency, requests)
    assert load.replies == tuple(number * 10 for number in range(requests))
    assert len(load.latencies_ms) == requests
    assert load.concurrency == concurrency


async def test_the_first_failure_ends_the_load_as_itself() -> None:
    ended: list[int] = []

    async def send(number: int) -> None:
        if number == 1:
            raise RuntimeError("refused")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    with pytest.raises(RuntimeError, match="refused"):
        await closed_loop(send, 2, 5)
    assert ended == [0]


def test_throughput_is_requests_over_the_wall_time() -> None:
    load = Load(concurrency=2, wall_s=0.5, latencies_ms=(100.0, 300.0, 200.0), replies=(None,) * 3)
    assert load.requests_per_s == 6.0
    assert load.latency_ms() == 200.0
    assert load.latency_ms(1.0) == 300.0
