"""The generator is not what a load test measures: a thousand requests a second from one core."""

from __future__ import annotations

import asyncio
import os

import pytest

from benchmarks.load_generator import RATES, Sent, apart, measure


def test_a_thousand_requests_a_second_are_sent_from_one_core() -> None:
    """Others may take the cores for a while: of three runs the best counts."""
    cores = os.sched_getaffinity(0)
    runs: list[Sent] = []
    with apart() as url:
        assert len(os.sched_getaffinity(0)) == 1
        for _ in range(3):
            runs.append(asyncio.run(measure(url, 1000.0, 5.0)))
            if runs[-1].is_kept and runs[-1].lag_p99_ms < 50:
                break
    assert os.sched_getaffinity(0) == cores
    best = min(runs, key=lambda sent: sent.lag_p99_ms)
    assert best.answered_per_s >= 950, runs
    assert best.cpu < 0.9, runs
    assert best.lag_p99_ms < 50, runs


@pytest.mark.parametrize(("answered", "kept"), [(1000.0, True), (950.0, True), (949.0, False)])
def test_a_rate_is_kept_where_nearly_all_of_it_is_answered_in_time(answered: float, kept: bool) -> None:
    assert Sent(1000.0, answered, 0.5, 1.0, 1.0).is_kept is kept
    assert 1000 in RATES
