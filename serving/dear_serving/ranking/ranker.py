"""Drives a strategy over an engine: the spine of a rerank request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from dear_serving.engine.protocol import Engine, EngineRequest
from dear_serving.errors import DeadlineExceeded
from dear_serving.ranking.permutation import Permutation, parse_permutation
from dear_serving.ranking.prompts import PromptBuilder, TaskPrompts
from dear_serving.ranking.windows import Strategy, Window
from dear_serving.types import Generation, Order, Ranking, RankTask, Repairs, Usage


class Ranker:
    """Ranks one task with one adapter: windows of a batch run at once, batches one after another."""

    def __init__(self, engine: Engine, prompts: PromptBuilder, adapter: str | None, request_id: str) -> None:
        self._engine = engine
        self._builder = prompts
        self._adapter = adapter
        self._request_id = request_id
        self._windows = self._rounds = 0
        self._repairs = Repairs()
        self._usage = Usage()

    async def rank(self, task: RankTask, strategy: Strategy, name: str) -> Ranking:
        """Run ``strategy`` (called ``name`` in the answer) to its end or to the task's deadline.

        A deadline that passes after the first round cuts the rounds left: the order so far is
        the answer and a warning says so.

        Raises:
            InvalidRequest: a window does not fit the model.
            DeadlineExceeded: the deadline passed in the first round.
            EngineUnavailable: the engine could not decode a window.
        """
        prompts = self._builder.prepare(task)
        warnings: tuple[str, ...] = ()
        ends_at = None if task.deadline_s is None else time.monotonic() + task.deadline_s
        orders: Sequence[Order] | None = None
        while True:
            try:
                batch = next(strategy) if orders is None else strategy.send(orders)
            except StopIteration as done:
                order: Order = done.value
                break
            left_s = None if ends_at is None else ends_at - time.monotonic()
            try:
                async with asyncio.timeout(left_s) as deadline:
                    orders = await self._run_round(prompts, batch.windows, task.priority)
            except TimeoutError:
                if not deadline.expired():  # the engine's own, not ours
                    raise
                if self._rounds == 0:
                    raise DeadlineExceeded(
                        "the deadline passed before anything was ranked", param="dear.deadline_ms"
                    ) from None
                order = batch.order_so_far
                rounds = "1 round" if self._rounds == 1 else f"{self._rounds} rounds"
                warnings = (f"deadline passed after {rounds}; the order is partial",)
                break
        return Ranking(
            order=order,
            strategy=name,
            windows=self._windows,
            rounds=self._rounds,
            repairs=self._repairs,
            usage=self._usage,
            warnings=prompts.warnings() + warnings,
        )

    async def _run_round(
        self, prompts: TaskPrompts, windows: tuple[Window, ...], priority: int
    ) -> list[Order]:
        requests = []
        for offset, window in enumerate(windows):
            prompt = prompts.window(window)
            requests.append(
                EngineRequest(
                    prompt.token_ids,
                    prompt.max_new_tokens,
                    self._adapter,
                    f"{self._request_id}-{self._windows + offset}",
                    priority,
                )
            )
        generations = await _all(self._engine, requests)
        permutations = [
            self._parse(generation, len(window))
            for generation, window in zip(generations, windows, strict=True)
        ]
        self._windows += len(windows)
        self._rounds += 1
        self._usage = self._usage.plus_round(generations)
        self._repairs = sum((p.repairs for p in permutations), self._repairs)
        return [permutation.order for permutation in permutations]

    def _parse(self, generation: Generation, count: int) -> Permutation:
        first = self._builder.template.first_identifier
        return parse_permutation(generation.text, count, first_identifier=first)


async def _all(engine: Engine, requests: Sequence[EngineRequest]) -> list[Generation]:
    """All at once; the first failure cancels the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.generate(request)) for request in requests]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
