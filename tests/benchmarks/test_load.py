"""Lists in a closed loop, without a network."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal

import pytest

from benchmarks.load import Load, LoadFailed, closed_loop
from dear_tools.load.lists import List
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record

LISTS = [List(f"query {number}", ("a", "b")) for number in range(10)]


@dataclass
class Slow:
    """Answers after some milliseconds; ``failing`` is the query that is refused."""

    failing: str = ""
    sent: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0

    async def send(
        self, tenant: Tenant, model: str, asked: List, intended_s: float, start_s: float
    ) -> Record:
        sent_s = time.perf_counter() - start_s
        self.sent.append(asked.query)
        self.models.append(model)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        result: Literal["ok", "failed"] = "failed" if asked.query == self.failing else "ok"
        try:
            number = int(asked.query.split()[1])
            await asyncio.sleep(60 if self.failing and result == "ok" else 0.001 * (number % 3))
        finally:
            self.ended.append(asked.query)
        self.in_flight -= 1
        done_s = time.perf_counter() - start_s
        return Record(intended_s, sent_s, done_s, "t", model, result, 2, prompt_tokens=number, message="no")


@pytest.mark.parametrize(("concurrency", "count"), [(1, 3), (4, 10), (8, 3)])
async def test_so_many_callers_send_every_list_once(concurrency: int, count: int) -> None:
    sender = Slow()
    load = await closed_loop(sender, LISTS[:count], concurrency, ["one", "other"])
    assert sender.sent == [one.query for one in LISTS[:count]]
    assert sender.most == min(concurrency, count)
    assert sender.models == [["one", "other"][number % 2] for number in range(count)]
    assert [record.prompt_tokens for record in load.records] == list(range(count))


async def test_the_first_failure_ends_the_load_as_itself() -> None:
    sender = Slow(failing="query 1")
    with pytest.raises(LoadFailed, match="failed: no"):
        await asyncio.wait_for(closed_loop(sender, LISTS, 2), 10)
    assert sorted(sender.ended) == ["query 0", "query 1"]


def test_throughput_is_requests_over_the_wall_time() -> None:
    times = [(0.0, 0.1), (0.0, 0.3), (0.3, 0.5)]
    load = Load(tuple(Record(sent, sent, done, "t", "", "ok", 1) for sent, done in times))
    assert load.requests_per_s == 6.0
    assert load.latency_ms() == pytest.approx(200.0)
    assert load.latency_ms(1.0) == pytest.approx(300.0)
