"""What ``dear load`` can send from one core: python -m benchmarks.load_generator [--seconds 5]

Against benchmarks/trivial_server.py on a core of its own, so that the generator is what shows: open loop with
constant arrivals, 20 invented passages of 40 words, every order checked. Rates rise until one is not kept.
Prints a line for each on stderr, then JSON: the rates, the highest that was kept, machine and versions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from benchmarks.client_overhead import trivial_server
from benchmarks.environment import environment
from dear_client import Retry, Timeout
from dear_client.exchange import Terms
from dear_tools.load.generator import Generator
from dear_tools.load.lengths import parse_lengths
from dear_tools.load.lists import InventedLists
from dear_tools.load.loadtest import LoadTest, run
from dear_tools.load.mix import Mix, Tenant
from dear_tools.load.objective import parse_objective
from dear_tools.load.schedule import Schedule, Stage, random_sources

RATES = (250, 500, 750, 1000, 1250, 1500, 1750, 2000, 2500, 3000, 4000)
LEAST_SHARE = 0.95
WARMUP_S = 1.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A rate that was asked for, and what came of it.

    ``answered_per_s`` counts to the last answer; ``cpu`` is the generator's share of its core; ``lag_p99_ms``
    how late one request in a hundred went out; ``service_p50_ms`` what an answer took from there.
    """

    asked_per_s: float
    answered_per_s: float
    cpu: float
    lag_p99_ms: float
    service_p50_ms: float

    @property
    def is_kept(self) -> bool:
        """Whether the schedule was."""
        return self.answered_per_s >= LEAST_SHARE * self.asked_per_s


class _Blind:
    def update(self, generator: Generator, schedule: Schedule) -> None:
        """See trial.View: nothing is shown."""


@contextmanager
def apart() -> Iterator[str]:
    """The URL of a trivial server on the last core, with this process on the first."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        with trivial_server() as url:  # inherits the core
            os.sched_setaffinity(0, {min(cores)})
            yield url
    finally:
        os.sched_setaffinity(0, cores)


async def measure(url: str, rate: float, seconds: float) -> Sent:
    """Send at a rate for so long.

    Raises:
        AssertionError: a request was not answered with a valid order.
    """
    schedule_random, lists_random = random_sources(0)
    test = LoadTest(
        Terms(url, Timeout(), Retry(attempts=1)),
        Mix((Tenant("default", None),), (1.0,), ("",), (1.0,)),
        InventedLists(parse_lengths("20"), parse_lengths("40"), lists_random),
        parse_objective("p95<1s"),
        {},
        schedule_random,
    )
    schedule = Schedule("open", (Stage(seconds, rate, rate),), "constant", warmup_s=WARMUP_S)
    summary = (await run(test, schedule, _Blind())).summary
    assert summary.results == {"ok": round(rate * seconds)}, summary.messages
    assert summary.service is not None
    return Sent(
        rate,
        round(summary.ok_per_s, 1),
        round(summary.generator_cpu, 3),
        round(summary.lag_p99_ms, 2),
        round(summary.service.p50_ms, 2),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_generator", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each rate")
    seconds = parser.parse_args().seconds
    where = environment()
    found: list[Sent] = []
    with apart() as url:
        for rate in RATES:
            found.append(sent := asyncio.run(measure(url, rate, seconds)))
            sys.stderr.write(
                f"{sent.asked_per_s:,} requests/s asked, {sent.answered_per_s:,.0f} answered, "
                f"{sent.cpu:.0%} of a core, {sent.lag_p99_ms:.1f} ms late at p99\n"
            )
            if not sent.is_kept:
                break
    report = {
        "highest_kept_per_s": max((sent.asked_per_s for sent in found if sent.is_kept), default=None),
        "rates": [asdict(sent) for sent in found],
        "environment": where,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
