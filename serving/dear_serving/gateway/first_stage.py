"""The first stage: a model that reads each passage alone, and gives it a score."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from dear_serving import tracing
from dear_serving.errors import EngineUnavailable
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.deadline import results_by, seconds_for_engine
from dear_serving.gateway.engine_replicas import Seen
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.fair_threads import Inline, Runner
from dear_serving.protocol import PromptScores, ScoreRequest
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask, Usage

# Prompts that go to an engine in one message, and about how many tokens of them.
_BATCH, _BATCH_TOKENS = 32, 8192
# Messages of one task that are open at a time. More wait without their prompts, which take memory.
_OPEN_REQUESTS = 16


class Scorer(Protocol):
    """The part of protocol.Engine that scores."""

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See protocol.Engine."""
        ...


class ScoreEngines(Scorer, Protocol):
    """Engines that run a first stage alone."""

    async def metrics(self) -> str:
        """See protocol.Engine."""
        ...

    def seen(self) -> Mapping[str, Seen]:
        """What this gateway sees of each of them."""
        ...


@dataclass(frozen=True, slots=True)
class OwnEngines:
    """Engines that run the first stage alone, and this gateway's queue before them."""

    client: ScoreEngines
    queue: FairQueue


@dataclass(frozen=True, slots=True)
class Scoring:
    """What scores the passages of one request: a model, with prompts of a pointwise template that read at
    most ``max_passage_tokens`` of a passage (None: what fits). ``own`` are its engines, None: the base's.
    """

    model: ServedModel
    builder: PromptBuilder
    max_passage_tokens: int | None = None
    own: OwnEngines | None = None


@dataclass(frozen=True, slots=True)
class FirstStage:
    """The server's first stage.

    Args:
        name: public name of its model.
        builder: builds its prompts, of a pointwise template.
        depth: how many of its best a cascade ranks listwise, if the request does not say.
        max_passage_tokens: most tokens that it reads of a passage; None: what fits.
        own: its engines, if they are its own; None: the base model's.
    """

    name: str
    builder: PromptBuilder
    depth: int
    max_passage_tokens: int | None = None
    own: OwnEngines | None = None

    def scoring(self, caller: Caller) -> Scoring:
        """What scores for this caller, who needs no grant for it.

        Raises:
            EngineUnavailable: no revision of it is served now.
        """
        if self.own is not None:
            model = ServedModel(self.name, None, self.builder.template.name)
            return Scoring(model, self.builder, self.max_passage_tokens, self.own)
        served = caller.models.served.get(self.name)
        if served is None:
            raise EngineUnavailable(f"the first stage {self.name} is not served now", retry_after_s=5.0)
        return Scoring(served, self.builder, self.max_passage_tokens)


class PassageScorer:
    """Scores the passages of one task.

    Args:
        scoring: the model and its prompts.
        task: the task that the passages belong to.
    """

    def __init__(self, scoring: Scoring, task: RankTask) -> None:
        builder = scoring.builder
        self._labels = tuple(label for (label,) in builder.answer.identifiers)
        self._scale = builder.template.label_scale
        self._adapter = scoring.model.adapter
        self._task = task
        caps = [cap for cap in (task.max_passage_tokens, scoring.max_passage_tokens) if cap is not None]
        self._is_capped = scoring.max_passage_tokens is not None
        self.prompts = builder.prepare(replace(task, max_passage_tokens=min(caps, default=None)))
        self.runner: Runner = Inline()
        self.engine: Scorer | None = None

    def warnings(self) -> tuple[str, ...]:
        """What was cut though the settings do not want it, one sentence each."""
        return () if self._is_capped else tuple(f"first stage: {one}" for one in self.prompts.warnings())

    def expected_tokens(self, count: int) -> int:
        """Estimate the prompt tokens of so many passages."""
        return self.prompts.expected_tokens(1, count, count) if count else 0

    def expected_cost(self, count: int) -> int:
        """What the requests for so many passages take of the engines together: the sum of their ``cost``."""
        return self.expected_tokens(count) + count

    async def score(
        self, passages: Sequence[int], request_id: str, ends_s: float = math.inf
    ) -> tuple[Mapping[int, float], Usage]:
        """The log odds that each passage is relevant, and the work; what is not scored in time is left out.

        Args:
            passages: indices into the task.
            request_id: prefix of the engine requests' ids.
            ends_s: when scoring stops (time.monotonic).

        Raises:
            EngineUnavailable: the engine could not score a passage.
        """
        each = self.expected_tokens(len(passages)) // len(passages)
        size = max(1, min(_BATCH, _BATCH_TOKENS // max(1, each)))
        batches = [passages[start : start + size] for start in range(0, len(passages), size)]
        places = asyncio.Semaphore(_OPEN_REQUESTS)

        async def score(batch: Sequence[int], number: int) -> PromptScores:
            async with places:
                return await self._score(batch, f"{request_id}-score{number}", ends_s)

        with tracing.span("score", documents=len(passages), revision=self._adapter) as span:
            tasks = [asyncio.create_task(score(batch, number)) for number, batch in enumerate(batches)]
            answers = await results_by(tasks, ends_s)
            usage = Usage.side_by_side(answer.usage for answer in answers if answer is not None)
            if span is not tracing.NO_SPAN:
                span.set(**usage.work())
        found = {
            passage: score / self._scale
            for batch, answer in zip(batches, answers, strict=True)
            if answer is not None
            for passage, score in zip(batch, answer.scores, strict=True)
            if score is not None
        }
        return found, usage

    async def _score(self, batch: Sequence[int], request_id: str, ends_s: float) -> PromptScores:
        assert self.engine is not None
        prompts = await self.runner.run(self._prompts, batch)
        asked = ScoreRequest(
            prompts, self._labels, self._adapter, request_id, self._task.priority, seconds_for_engine(ends_s)
        )
        try:
            return await self.engine.score(asked)
        except EngineUnavailable as error:
            raise EngineUnavailable(
                f"first stage: {error.message}", retry_after_s=error.retry_after_s, failed=error.failed
            ) from error

    def _prompts(self, batch: Sequence[int]) -> list[list[int]]:
        return [self.prompts.window((passage,)) for passage in batch]
