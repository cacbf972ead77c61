"""Runs a strategy on an engine, round by round."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

from dear_serving.errors import DeadlineExceeded
from dear_serving.gateway.deadline import results_by
from dear_serving.gateway.first_stage import PassageScorer
from dear_serving.gateway.window_ranker import OnDecoded, WindowRanker
from dear_serving.protocol import DecodedWindow
from dear_serving.ranking.confidence import Evidence
from dear_serving.ranking.scores import Scores, probability_of
from dear_serving.ranking.windows import Batch, Strategy, Window
from dear_serving.types import (
    Coverage,
    Explanation,
    OnProgress,
    Order,
    Ranking,
    RankTask,
    Repairs,
    Usage,
    WindowTimes,
)

# Windows of one task that have a prompt at a time. More wait without one, since prompts take memory.
_OPEN_WINDOWS = 256


class Ranker:
    """Ranks one task: windows of a batch run at once, batches one after another.

    Args:
        window_ranker: ranks single windows of the task.
        task: the task to rank.
        request_id: prefix of the windows' request ids.
        observe: called with the number of windows and the seconds of every round.
        on_progress: called as ranks of a leading window (see Batch.leads) are decided.
        arrived_s: when the request arrived (time.monotonic), which an explanation counts from; None: now.
        scorer: scores the task's passages, for strategies with a first stage.

    ``evidence`` holds the windows ranked, if the task asks for confidence.
    """

    def __init__(
        self,
        window_ranker: WindowRanker,
        task: RankTask,
        request_id: str,
        observe: Callable[[int, float], None] | None = None,
        on_progress: OnProgress | None = None,
        arrived_s: float | None = None,
        scorer: PassageScorer | None = None,
    ) -> None:
        self._window_ranker = window_ranker
        self._scorer = scorer
        self._probabilities: dict[int, float] = {}
        self._unscored = 0
        self._task = task
        self._request_id = request_id
        self._observe = observe
        self._on_progress = on_progress
        self._arrived_s = time.monotonic() if arrived_s is None else arrived_s
        self._times: list[WindowTimes] = []
        self._reported: DecodedWindow | None = None
        self._scores = Scores(len(task.passages))
        self.evidence = Evidence(len(task.passages)) if task.confidence else None
        self._shown: set[int] = set()
        self._windows = self._rounds = self._skipped = 0
        self._undecided = 0
        self._repairs = Repairs()
        self._usage = Usage()
        self._reasoning: list[str] = []

    async def rank(self, strategy: Strategy, name: str, reason: str, began_s: float | None = None) -> Ranking:
        """Run ``strategy`` to its end; ``name`` and ``reason`` go into the Ranking.

        After the task's deadline, counted from ``began_s`` (time.monotonic; None: now), windows are no longer
        ranked and keep the order they are shown in, and passages without a score follow those with one. The
        result then has a warning that says how many were skipped.

        Raises:
            InvalidRequest: a window does not fit the model, or the task's scoring cannot rank it.
            DeadlineExceeded: the deadline passed before any window was ranked.
            EngineUnavailable: the engine could not decode a window.
        """
        task = self._task
        began_s = time.monotonic() if began_s is None else began_s
        ends_s = math.inf if task.deadline_s is None else began_s + task.deadline_s
        step = await self._window_ranker.runner.run(_advance, strategy, None)
        while isinstance(step, Batch):
            run = self._run_pointwise if step.pointwise else self._run_round
            orders = await run(step, ends_s)
            step = await self._window_ranker.runner.run(_advance, strategy, orders)
        order = step
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
            warnings=self._warnings(),
            reasoning=tuple(self._reasoning),
            explanation=self._explanation() if task.explain else None,
            coverage=Coverage(len(self._shown), unread=len(order) - len(self._shown)),
            scored=len(self._probabilities),
            first_scores=tuple(map(self._probabilities.get, order)) if self._scorer else (),
        )

    async def _run_pointwise(self, batch: Batch, ends_s: float) -> list[Order]:
        """The order of the only window's passages by score; those without one come last, as shown."""
        assert self._scorer is not None
        (window,) = batch.windows
        started_ms = self._now_ms()
        found, usage = await self._scorer.score(window.passages, self._request_id, ends_s)
        if not found:
            raise _too_late()
        self._times.append(
            WindowTimes(self._rounds, started_ms, self._now_ms(), usage.queue_ms, window.passages)
        )
        self._rounds += 1
        self._usage += usage
        self._unscored = len(window.passages) - len(found)
        self._probabilities = {passage: probability_of(score) for passage, score in found.items()}
        self._scores.observe_alone(self._probabilities)
        if self.evidence is not None:
            self.evidence.observe_alone(found)
        shown = range(len(window.passages))
        worth = [found.get(passage, -math.inf) for passage in window.passages]
        return [tuple(sorted(shown, key=lambda place: (-worth[place], place)))]

    async def _run_round(self, batch: Batch, ends_s: float) -> list[Order]:
        """The order of every window; the order shown if it could not be ranked in time."""
        started_s = time.monotonic()
        self._shown.update(passage for window in batch.windows for passage in window.passages)
        ranked: list[DecodedWindow | None] = [None] * len(batch.windows)
        if started_s < ends_s:
            ranked = await self._rank_all(batch, ends_s)
        done = [decoded for decoded in ranked if decoded is not None]
        if done and self._observe is not None:
            # Extrapolate to the windows that the deadline cut off.
            self._observe(len(ranked), (time.monotonic() - started_s) * len(ranked) / len(done))
        if done:
            self._rounds += 1
        elif self._rounds == 0:
            raise _too_late()
        return await self._window_ranker.runner.run(self._take_in_all, batch, ranked)

    def _take_in_all(self, batch: Batch, ranked: Sequence[DecodedWindow | None]) -> list[Order]:
        orders = []
        for window, decoded in zip(batch.windows, ranked, strict=True):
            if decoded is None:
                self._skipped += 1
                orders.append(tuple(range(len(window.passages))))
            else:
                self._take_in(window, decoded)
                orders.append(decoded.order)
        self._usage += Usage.side_by_side(decoded.usage for decoded in ranked if decoded is not None)
        return orders

    async def _rank_all(self, batch: Batch, ends_s: float) -> list[DecodedWindow | None]:
        """Rank all windows at once, or as many as may be open; the first failure cancels the others and is
        raised unchanged."""
        places = asyncio.Semaphore(_OPEN_WINDOWS)

        async def rank(window: Window, request_id: str) -> DecodedWindow:
            async with places:
                started_ms, queue_ms = self._now_ms(), 0.0
                try:
                    decoded = await self._window_ranker.rank(window, request_id, ends_s, report)
                    queue_ms = decoded.usage.queue_ms
                    return decoded
                finally:
                    if self._task.explain:
                        times = (started_ms, self._now_ms(), queue_ms)
                        self._times.append(WindowTimes(self._rounds, *times, window.passages))

        report = self._reporter(batch.windows[0]) if batch.leads and self._on_progress is not None else None
        tasks = [
            asyncio.create_task(rank(window, f"{self._request_id}-{self._windows + self._skipped + offset}"))
            for offset, window in enumerate(batch.windows)
        ]
        ranked = await results_by(tasks, ends_s)
        if report is not None and ranked == [None]:
            return [self._reported]  # the caller already received these ranks
        return ranked

    def _reporter(self, window: Window) -> OnDecoded:
        """A callback that reports a leading window's ranks to ``on_progress``, with their final scores."""
        on_progress = self._on_progress
        assert on_progress is not None
        scores: Scores | None = None

        def report(decoded: DecodedWindow) -> None:
            nonlocal scores
            self._reported = decoded
            if scores is None:
                scores = self._scores.copy()
                scores.observe(window.passages, decoded.log_probs)
            best = tuple(window.passages[place] for place in decoded.order[: decoded.decided])
            on_progress(best, scores.along(best))

        return report

    def _take_in(self, window: Window, decoded: DecodedWindow) -> None:
        self._windows += 1
        self._repairs += decoded.repairs
        if self._task.scoring == "permutation":
            self._undecided += max(0, window.needed - decoded.decided)
        if decoded.log_probs:
            self._scores.observe(window.passages, decoded.log_probs)
        if self.evidence is not None:
            self.evidence.observe(window.passages, decoded.order, decoded.decided, decoded.log_probs)
        if decoded.reasoning is not None:
            self._reasoning.append(decoded.reasoning)

    def _now_ms(self) -> float:
        return (time.monotonic() - self._arrived_s) * 1e3

    def _explanation(self) -> Explanation:
        return Explanation(self._now_ms(), tuple(self._times), self._window_ranker.prompts.cut)

    def _warnings(self) -> tuple[str, ...]:
        """What was cut, and what was left out because of the deadline, one sentence each."""
        warnings: list[str] = []
        if self._scorer is not None:
            warnings += self._scorer.warnings()
        if self._scorer is None or self._windows or self._skipped:
            warnings += self._window_ranker.prompts.warnings()
        if self._unscored:
            warnings.append(
                f"deadline passed: {self._unscored} passages were not scored by the first stage and follow "
                "those that were"
            )
        if self._skipped:
            total = self._windows + self._skipped
            warnings.append(
                f"deadline passed: {self._skipped} of {total} windows were not ranked and keep the order "
                "they had"
            )
        if self._undecided:
            warnings.append(
                f"deadline passed: {self._undecided} ranks were not decided one by one, they follow the "
                "first-step probabilities"
            )
        return tuple(warnings)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before anything was ranked", param="dear.deadline_ms")


def _advance(strategy: Strategy, orders: Sequence[Order] | None) -> Batch | Order:
    """The strategy's next batch, or its final order."""
    try:
        return next(strategy) if orders is None else strategy.send(orders)
    except StopIteration as done:
        order: Order = done.value
        return order
