"""One measurement of one system: a burst of lists, everybody else held still."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import psutil

from benchmarks.baselines.family import cpu_seconds, frozen
from benchmarks.baselines.ranking import Ranking
from benchmarks.baselines.systems import System
from benchmarks.quartiles import percentile
from dear_tools.load.lists import List


@dataclass(frozen=True, slots=True)
class Burst:
    """A system's lists in one go.

    ``foreign_cores`` is how many cores processes that are not ours kept busy meanwhile (mean), time stolen by
    other virtual machines included: near 0 on a quiet machine, and a burst with more of it says little.
    """

    system: str
    concurrency: int
    wall_s: float
    rankings: tuple[Ranking, ...]
    foreign_cores: float

    @property
    def lists_per_s(self) -> float:
        """Throughput."""
        return len(self.rankings) / self.wall_s

    def to_json(self) -> dict[str, Any]:
        """Its figures; the orders are left out."""
        latencies_ms = [one.latency_s * 1e3 for one in self.rankings]
        return {
            "system": self.system,
            "concurrency": self.concurrency,
            "lists": len(self.rankings),
            "wall_s": self.wall_s,
            "lists_per_s": self.lists_per_s,
            "latency_p50_ms": percentile(latencies_ms, 0.5),
            "latency_p95_ms": percentile(latencies_ms, 0.95),
            "prompt_tokens": fmean(one.prompt_tokens for one in self.rankings),
            "completion_tokens": fmean(one.completion_tokens for one in self.rankings),
            "whole": sum(one.is_whole for one in self.rankings),
            "decided": fmean(one.decided for one in self.rankings),
            "foreign_cores": self.foreign_cores,
        }


def burst(
    system: System,
    waiting: Sequence[System],
    lists: Sequence[List],
    concurrency: int,
    wake: Sequence[List],
) -> Burst:
    """Rank the lists while the waiting systems are loaded but frozen.

    ``wake`` is ranked first, outside the measurement: a system that was frozen has to catch up.
    """
    with frozen({other.pid for other in waiting} - {system.pid}):
        system.rank(wake, 1)
        before, started_s = _used(), time.perf_counter()
        run = system.rank(lists, concurrency)
        after, watched_s = _used(), time.perf_counter() - started_s
    used = {name: value - before[name] for name, value in after.items()}
    return Burst(
        system=system.name,
        concurrency=concurrency,
        wall_s=run.wall_s,
        rankings=run.rankings,
        foreign_cores=max(0.0, used["machine"] - used["own"]) / watched_s,
    )


def _used() -> Mapping[str, float]:
    """CPU seconds so far: of this process and all it started, and of the machine."""
    machine = psutil.cpu_times()
    busy = ("user", "nice", "system", "irq", "softirq", "steal")
    return {
        "own": cpu_seconds(os.getpid()),
        "machine": sum(getattr(machine, field, 0.0) for field in busy),
    }
