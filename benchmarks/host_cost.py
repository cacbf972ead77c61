"""What vLLM's scheduler takes a step for drafted windows over a large vocabulary, without a model.

The real DraftedScheduler and the real masks; only the model is a stub. The step model times the same calls
as it runs, so these figures are what its host time is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.context import Context
from benchmarks.report_types import Claim, Table

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

NAME = "host_cost"
TITLE = "The scheduler's time a step"

VOCABULARY = 128_256
PASSAGES = 20
PROMPT_TOKENS = 64
WINDOWS = (1, 8, 32, 64)
DRAFTS = (3, 7, 11)


@dataclass(slots=True)
class Stopwatch:
    """The scheduler's calls in steps that decode ``windows`` windows and read no prompt, in seconds."""

    windows: int
    steps: list[dict[str, float]] = field(default_factory=list)
    _open: dict[str, float] | None = None

    def scheduled(self, step: SchedulerOutput, context: int, schedule_s: float, mask_s: float) -> None:
        """See benchmarks.stub_engine.Clock."""
        whole = not step.scheduled_new_reqs and len(step.num_scheduled_tokens) == self.windows
        self._open = {"schedule": schedule_s, "mask": mask_s} if whole else None

    def processed(self, update_s: float) -> None:
        """See benchmarks.stub_engine.Clock."""
        if self._open is not None:
            self.steps.append(self._open | {"update": update_s})


def host_cost(windows: int, drafts: int) -> dict[str, float]:
    """Median milliseconds a step of schedule, get_grammar_bitmask and update_from_output, and their sum."""
    from benchmarks import stub_ways
    from benchmarks.stub_engine import Limits, Window
    from benchmarks.stub_runner import StubModel

    watch = Stopwatch(windows)
    limits = Limits(
        max_num_seqs=64,
        max_num_batched_tokens=64 * PROMPT_TOKENS,
        max_model_len=512,
        num_blocks=2048,
        block_size=16,
        vocabulary=VOCABULARY,
        drafts=drafts,
        policy=(("free_tokens", 64 * (drafts + 1)), ("free_chance", 0.0), ("uniform", True)),
    )
    engine = stub_ways.DRAFTED.start(limits, StubModel(sticking=0.9), watch)
    # Identifiers all over the vocabulary: each is in a word of the mask of its own.
    identifiers = tuple((VOCABULARY - 1 - 6000 * number,) for number in range(PASSAGES))
    for round_ in range(4):
        for number in range(windows):
            prompt = [1000 + round_ * windows + number] * PROMPT_TOKENS
            window = Window(f"{round_}-{number}", prompt, identifiers, (60, 61, 62), PASSAGES)
            engine.add(stub_ways.DRAFTED.request(engine, window))
        while engine.step():
            pass
    found = {call: 1e3 * median(step[call] for step in watch.steps) for call in watch.steps[0]}
    return found | {"all": 1e3 * median(sum(step.values()) for step in watch.steps)}


def steps(quick: bool) -> int:
    """One a number of drafts."""
    return len(DRAFTS)


def run(context: Context) -> dict[str, Any]:
    """Every number of windows with every number of drafts."""
    cells = []
    for drafts in DRAFTS:
        cells += [{"windows": count, "drafts": drafts, "ms": host_cost(count, drafts)} for count in WINDOWS]
        context.advance(f"{NAME}: {drafts} drafts")
    return {"vocabulary": VOCABULARY, "cells": cells}


def tables(result: dict[str, Any]) -> list[Table]:
    """A row a number of windows and drafts."""
    note = (
        f"Milliseconds, medians of the steps in which all windows decode; {PASSAGES} identifiers in a "
        f"vocabulary of {result['vocabulary']:,} tokens. `mask` runs while the model does."
    )
    calls = ("schedule", "mask", "update", "all")
    rows = [
        (str(cell["windows"]), str(cell["drafts"]), *(f"{cell['ms'][call]:.2f}" for call in calls))
        for cell in result["cells"]
    ]
    return [Table("The scheduler's time a step", note, ("windows", "drafts", *calls), tuple(rows))]


def claims(result: dict[str, Any]) -> list[Claim]:
    """None."""
    return []


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """None."""
    return []
