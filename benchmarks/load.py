"""Lists ranked in a closed loop, every list once: dear_tools' generator, for all systems and routes alike."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quartiles import percentile
from dear_client import Ranking, RerankOptions, Retry, Timeout
from dear_client.exchange import Terms
from dear_tools.load.generator import Generator, Sends
from dear_tools.load.lists import List
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule, Stage
from dear_tools.load.sender import Sender

_LONGEST_S = 3600.0
_ANSWER_S = 300.0


class LoadFailed(Exception):
    """A request of a benchmark was not answered with an order; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one load saw: a record for each list, in the order of the lists."""

    records: tuple[Record, ...]

    @property
    def wall_s(self) -> float:
        """From the first request sent to the last one answered."""
        return max(one.done_s for one in self.records) - min(one.sent_s for one in self.records)

    @property
    def latencies_ms(self) -> list[float]:
        """Of each request."""
        return [record.service_s * 1e3 for record in self.records]

    @property
    def requests_per_s(self) -> float:
        """Throughput."""
        return len(self.records) / self.wall_s

    def latency_ms(self, share: float = 0.5) -> float:
        """A percentile of the latencies; the median as it stands."""
        return percentile(self.latencies_ms, share)


def reranks(
    url: str,
    options: RerankOptions,
    on_ranking: Callable[[List, Ranking], object] = lambda asked, ranking: None,
) -> Sender:
    """What sends lists to /v2/rerank, never twice."""
    timeout = Timeout(answer_s=_ANSWER_S, total_s=_ANSWER_S)
    return Sender(Terms(url, timeout, Retry(attempts=1)), options, on_ranking)


async def closed_loop(
    sender: Sends, lists: Sequence[List], concurrency: int, models: Sequence[str] = ("",)
) -> Load:
    """Send each list once, ``concurrency`` callers at a time. The first failure ends it.

    Args:
        concurrency: callers, >= 1.
        models: in turn, from request to request.

    Raises:
        LoadFailed: a request was not answered.
    """

    def check(record: Record) -> None:
        if record.result != "ok":
            raise LoadFailed(f"{record.result}: {record.message}")

    generator = Generator(sender, _InTurn(models), _Given(iter(lists)), random.Random(0), check)
    stage = Stage(_LONGEST_S, concurrency, concurrency)
    records = await generator.run(Schedule("closed", (stage,), requests=len(lists)))
    return Load(tuple(sorted(records, key=lambda record: record.sent_s)))


class _InTurn:
    """Models one after the other, as a mix."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = itertools.cycle(models)

    def draw(self, random: random.Random) -> tuple[Tenant, str]:
        """See Mix."""
        return Tenant("default", None), next(self._models)


@dataclass(slots=True)
class _Given:
    """Lists in their order."""

    lists: Iterator[List]

    def next(self) -> List:
        """See dear_tools.load.lists.Lists."""
        return next(self.lists)

    def describe(self) -> dict[str, Any]:
        """See dear_tools.load.lists.Lists."""
        return {}
