"""Load tests as the tests make them: small ones, against servers of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from dear_client import Retry, Timeout
from dear_client.exchange import Terms
from dear_tools.load.generator import Generator
from dear_tools.load.lengths import parse_lengths
from dear_tools.load.lists import InventedLists, Lists
from dear_tools.load.loadtest import LoadTest, Outcome, run
from dear_tools.load.mix import Mix, Tenant
from dear_tools.load.objective import parse_objective
from dear_tools.load.records import Record
from dear_tools.load.schedule import Schedule, parse_stages
from dear_tools.load.summary import Summary, summarise

NOBODY = Tenant("default", None)


class Blind:
    """Shows nothing."""

    def update(self, generator: Generator, schedule: Schedule) -> None:
        """See trial.View."""


def few_words(seed: int = 0, passages: str = "4") -> Lists:
    """Small lists."""
    return InventedLists(parse_lengths(passages), parse_lengths("5"), random.Random(seed))


def schedule(
    *, rate: str | None = None, callers: str | None = None, duration_s: float = 1.0, **more: Any
) -> Schedule:
    """An open loop with constant arrivals or a closed loop, without warm-up."""
    text = rate if rate is not None else callers or "1"
    kind: Any = "open" if rate is not None else "closed"
    return Schedule(kind, parse_stages(text, duration_s), more.pop("arrivals", "constant"), **more)


def load_test(
    url: str,
    *,
    attempts: int = 1,
    answer_s: float = 5.0,
    objective: str = "p95<2s",
    tenants: tuple[Tenant, ...] = (NOBODY,),
    models: tuple[str, ...] = ("",),
    lists: Lists | None = None,
    **options: Any,
) -> LoadTest:
    """What a test asks for; ``options`` are those of each request."""
    return LoadTest(
        Terms(url, Timeout(1.0, answer_s, 60.0), Retry(attempts=attempts, first_s=0.05)),
        Mix(tenants, (1.0,) * len(tenants), models, (1.0,) * len(models)),
        lists or few_words(),
        parse_objective(objective),
        options,
        random.Random(0),
    )


async def outcome_of(
    url: str,
    when: Schedule,
    watch: Callable[[Record, Generator], None] | None = None,
    **asked: Any,
) -> Outcome:
    """One run."""
    return await run(load_test(url, **asked), when, Blind(), watch=watch)


async def record_of(url: str, **asked: Any) -> Record:
    """What became of one request."""
    outcome = await outcome_of(url, schedule(callers="1", requests=1, duration_s=60.0), **asked)
    (record,) = outcome.records
    return record


def made(
    intended_s: float = 0.0,
    latency_s: float = 0.1,
    result: Any = "ok",
    *,
    lag_s: float = 0.0,
    tenant: str = "default",
    model: str = "",
    **more: Any,
) -> Record:
    """A record without a request."""
    done_s = intended_s + latency_s
    return Record(intended_s, intended_s + lag_s, done_s, tenant, model, result, 20, **more)


def summary_of(
    records: list[Record], objective: str = "p95<2s", *, start_s: float = 0.0, end_s: float = 10.0
) -> Summary:
    """Figures of records without a run."""
    return summarise(records, parse_objective(objective), start_s=start_s, end_s=end_s, generator_cpu=0.1)
