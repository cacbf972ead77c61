"""The generator is not what a load test measures: a thousand requests/s from one core."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.load_generator import RATES, Sent, apart, measure


def waited_s() -> float:
    """Seconds for which this process and its children wanted a core that somebody else had."""
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children())]
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in pids) / 1e9


@pytest.mark.integration
def test_a_thousand_requests_a_second_are_sent_from_one_core() -> None:
    """Kept in the first run or the second, unless others have the cores; and at most 0.9 ms of one each."""
    cores = os.sched_getaffinity(0)
    runs: list[tuple[Sent, float]] = []
    with apart() as url:
        assert len(os.sched_getaffinity(0)) == 1
        for _ in range(2):
            started_s, before_s = time.monotonic(), waited_s()
            sent = asyncio.run(measure(url, 1000.0, 5.0))
            runs.append((sent, (waited_s() - before_s) / (time.monotonic() - started_s)))
            if sent.is_kept:
                break
    assert os.sched_getaffinity(0) == cores
    best, waited = runs[-1]
    assert best.cpu / best.answered_per_s < 0.9e-3, runs
    assert best.is_kept or waited > 0.2, runs
    assert best.lag_p99_ms < 50 or waited > 0.02, runs


@pytest.mark.parametrize(("answered", "kept"), [(1000.0, True), (950.0, True), (949.0, False)])
def test_a_rate_is_kept_where_nearly_all_of_it_is_answered_in_time(answered: float, kept: bool) -> None:
    assert Sent(1000.0, answered, 0.5, 1.0, 1.0).is_kept is kept
    assert 1000 in RATES
