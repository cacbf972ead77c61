"""Drives a strategy over an engine: the spine of a rerank request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from dear_serving.errors import DeadlineExceeded
from dear_serving.gateway.window_ranker import Reader, Reading
from dear_serving.ranking.scores import Scores
from dear_serving.ranking.windows import Batch, Strategy, Window
from dear_serving.types import DecodedWindow, Order, Ranking, RankTask, Repairs, Usage

Head = Callable[[Order, tuple[float, ...]], None]
"""Told the best passages decided so far, best first, and their scores; every call has more of them."""


class Ranker:
    """Ranks one task: windows of a batch run at once, batches one after another.

    Args:
        reader: reads single windows of the task.
        observe: told the windows and the seconds of every round.
        head: told the best passages as they are decided, where the strategy's last window leads.
    """

    def __init__(
        self,
        reader: Reader,
        task: RankTask,
        request_id: str,
        observe: Callable[[int, float], None] | None = None,
        head: Head | None = None,
    ) -> None:
        self._reader = reader
        self._task = task
        self._request_id = request_id
        self._observe = observe
        self._head = head
        self._told: DecodedWindow | None = None
        self._scores = Scores(len(task.passages))
        self._windows = self._rounds = self._skipped = 0
        self._undecided = 0
        self._repairs = Repairs()
        self._usage = Usage()
        self._reasoning: list[str] = []

    async def rank(self, strategy: Strategy, name: str, reason: str) -> Ranking:
        """Run ``strategy`` (called ``name`` in the answer, chosen for ``reason``) to its end.

        From the task's deadline on, windows keep the order they are shown in instead of being ranked: what
        was decided until then is the answer, and a warning says what was skipped.

        Raises:
            InvalidRequest: a window does not fit the model, or cannot be ranked as asked.
            DeadlineExceeded: the deadline passed before any window was ranked.
            EngineUnavailable: the engine could not decode a window.
        """
        task = self._task
        ends_s = math.inf if task.deadline_s is None else time.monotonic() + task.deadline_s
        try:
            batch = next(strategy)
            while True:
                batch = strategy.send(await self._run_round(batch, ends_s))
        except StopIteration as done:
            order: Order = done.value
        return Ranking(
            order=order,
            scores=self._scores.along(order),
            score_type=self._scores.score_type,
            strategy=name,
            strategy_reason=reason,
            windows=self._windows,
            rounds=self._rounds,
            repairs=self._repairs,
            usage=self._usage,
            warnings=self._reader.prompts.warnings() + self._warnings(),
            reasoning=tuple(self._reasoning),
        )

    async def _run_round(self, batch: Batch, ends_s: float) -> list[Order]:
        """The order of every window; as shown where it could not be ranked in time."""
        started_s = time.monotonic()
        readings: list[Reading | None] = [None] * len(batch.windows)
        if started_s < ends_s:
            readings = await self._read_all(batch, ends_s)
        done = len(readings) - readings.count(None)
        if done and self._observe is not None:
            # What was cut off would have taken its share more.
            self._observe(len(readings), (time.monotonic() - started_s) * len(readings) / done)
        if done:
            self._rounds += 1
        elif self._rounds == 0:
            raise DeadlineExceeded("the deadline passed before anything was ranked", param="dear.deadline_ms")
        orders = []
        for window, reading in zip(batch.windows, readings, strict=True):
            if reading is None:
                self._skipped += 1
                orders.append(tuple(range(len(window.passages))))
            else:
                self._take_in(window, reading)
                orders.append(reading.order)
        self._usage = self._usage.plus_round([reading.runs for reading in readings if reading is not None])
        return orders

    async def _read_all(self, batch: Batch, ends_s: float) -> list[Reading | None]:
        """All windows at once; the first failure cancels the others and is raised as itself."""
        told = self._tell(batch.windows[0]) if batch.leads and self._head is not None else None
        tasks = [
            asyncio.create_task(
                self._reader.read(
                    window, f"{self._request_id}-{self._windows + self._skipped + offset}", ends_s, told
                )
            )
            for offset, window in enumerate(batch.windows)
        ]
        try:
            left_s = None if math.isinf(ends_s) else ends_s - time.monotonic()
            done, _ = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
            readings = [task.result() if task in done else None for task in tasks]
            if told is not None and readings == [None] and self._told is not None:
                # What the caller was told has to stand.
                readings = [Reading(self._told.order, self._told.decided, (self._told,), self._told)]
            return readings
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tell(self, window: Window) -> Callable[[DecodedWindow], None]:
        """Tells the caller's ``head`` of a leading window's ranks, with the scores they will have."""
        head = self._head
        assert head is not None
        scores: Scores | None = None

        def tell(decoded: DecodedWindow) -> None:
            nonlocal scores
            self._told = decoded
            if scores is None:
                scores = self._scores.copy()
                scores.observe(window.passages, decoded)
            best = tuple(window.passages[place] for place in decoded.order[: decoded.decided])
            head(best, scores.along(best))

        return tell

    def _take_in(self, window: Window, reading: Reading) -> None:
        self._windows += 1
        self._repairs += reading.repairs
        if self._task.scoring == "permutation":
            self._undecided += max(0, window.needed - reading.decided)
        if reading.window is not None:
            self._scores.observe(window.passages, reading.window)
        if reading.reasoning is not None:
            self._reasoning.append(reading.reasoning)

    def _warnings(self) -> tuple[str, ...]:
        """What the deadline cost, one sentence each."""
        said = []
        if self._skipped:
            total = self._windows + self._skipped
            said.append(
                f"deadline passed: {self._skipped} of {total} windows were not ranked and keep the order "
                "they had"
            )
        if self._undecided:
            said.append(
                f"deadline passed: {self._undecided} ranks were not decided one by one, they follow the "
                "first-step probabilities"
            )
        return tuple(said)
