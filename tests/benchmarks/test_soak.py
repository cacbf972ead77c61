"""What the soak test calls growth."""

from __future__ import annotations

import os

import psutil
import pytest

from benchmarks.soak import MAX_HANDLES, Sample, Track, Watch, memory

MIB = 2**20


def track(megabytes: list[float], handles: list[int] | None = None) -> Track:
    """A process, sampled once a minute."""
    counts = handles or [20] * len(megabytes)
    return Track(
        "Gateway",
        [
            Sample(60.0 * minute, int(size * MIB), count, 9)
            for minute, (size, count) in enumerate(zip(megabytes, counts, strict=True))
        ],
    )


def test_what_is_allocated_by_the_first_requests_is_no_growth() -> None:
    assert track([100, 150, 300, 400] + [500.0] * 8).grown() == []


def test_memory_that_grows_steadily_is_growth() -> None:
    leaking = track([200.0 + 10 * minute for minute in range(12)])
    assert leaking.grown() == ["memory"]
    assert leaking.per_hour(memory) == pytest.approx(600 * MIB)


def test_a_large_process_may_grow_by_a_share_of_its_memory() -> None:
    assert track([2000.0 + 4 * minute for minute in range(12)]).grown() == []


@pytest.mark.parametrize(("a_minute", "grown"), [(0, []), (MAX_HANDLES, ["handles"])])
def test_handles_that_stay_open_are_growth(a_minute: int, grown: list[str]) -> None:
    assert track([100.0] * 12, [20 + a_minute * minute for minute in range(12)]).grown() == grown


def test_an_actor_that_is_gone_is_named() -> None:
    watch = Watch(psutil.Process(os.getpid()))
    for minute in range(6):
        watch.sample()
        if minute == 2:
            watch.tracks[-1] = track([100.0])  # was there once
    assert watch.ended() == ["Gateway"]
    assert os.getpid() in watch.tracks
    assert watch.tracks[-1] not in watch.lasting()
