"""The prefix cache holds computed blocks only, also of a request preempted in the step that took them."""

from __future__ import annotations

import pytest

from benchmarks.stub_engine import Limits, Text, Window
from benchmarks.stub_ways import RESUMABLE
from dear_serving.inside_vllm.computed_blocks import ComputedBlocks
from tests.support.schedules import Arrival, Schedule, check, play

pytestmark = pytest.mark.integration

# The window takes two blocks for each choice. The better text, scheduled after it, takes one of them in the
# step in which it ends, and the window finds the other in the cache.
LIMITS = Limits(block_size=2, num_blocks=19)
ARRIVALS = (
    Arrival(0, Window("w", range(500, 512), tuple((token,) for token in range(10, 18)), (90, 91, 92), 8)),
    Arrival(1, Text("t", range(600, 606), 5, priority=-1)),
)


def play_it() -> None:
    schedule = Schedule(LIMITS, ARRIVALS)
    check(schedule, play(schedule, RESUMABLE), RESUMABLE)


def test_a_request_preempted_in_its_step_leaves_no_uncomputed_block() -> None:
    play_it()


def test_vllm_still_needs_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ComputedBlocks, "_preempt_request")
    with pytest.raises(AssertionError, match="the cache holds other tokens"):
        play_it()
