"""Scores texts by how probable a label is after each: one forward pass a text, no ranking."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dear_serving import logs
from dear_serving.errors import InvalidRequest
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.fair_threads import FairThreads
from dear_serving.gateway.tenant_engine import admit
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.metrics import Metrics
from dear_serving.protocol import DecodedWindow, Engine, PermutationRequest
from dear_serving.ranking.prompts import MAX_CHARS_PER_TOKEN, Tokenizer
from dear_serving.types import MAX_IDENTIFIERS, Usage

_INLINE_CHARS = 16_384
_BATCH = 64  # texts that are tokenised in one go
# Requests that are with the engines at a time. More wait, since prompts take memory.
_OPEN_REQUESTS = 256
_CHOICE_TOKENS = 2  # the choice, and what would follow it

Text = str | Sequence[int]
"""A text, in which control tokens are plain characters, or token ids."""


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Items, each read after the query, or before it with ``item_first``, and the labels that may follow.

    Args:
        labels: token ids, the first one scores.
        model: public name of the model; None: the server's default.
        begins: whether a query that is a text begins with the model's first token, as prompts do.
        priority: waiting requests with a lower value run first.
    """

    query: Text
    items: Sequence[Text]
    labels: tuple[int, ...]
    model: str | None = None
    item_first: bool = False
    begins: bool = True
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LabelScores:
    """``scores[i]``: the probability of the first label after item i, among all labels. ``cut`` items did not
    fit the model.
    """

    model: ServedModel
    scores: tuple[float, ...]
    usage: Usage
    cut: int


@dataclass(frozen=True, slots=True)
class LabelScoring:
    """Scores the tasks of all callers on the engines; fields as in OpenAIService."""

    engine: Engine
    queue: FairQueue
    admission: TokenAdmission
    metrics: Metrics
    tokenizer: Tokenizer
    threads: FairThreads
    max_model_len: int

    async def score(self, task: LabelTask, caller: Caller) -> LabelScores:
        """Score a task: an item is one forward pass, whose choice is masked to the labels.

        Raises:
            UnknownModel: the caller may use no model of that name.
            InvalidRequest: too few or many labels, or token ids that the model does not have.
            Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
            EngineUnavailable: the engine could not answer.
        """
        model = caller.find(task.model)
        logs.note(model=model.name, revision=model.revision, documents=len(task.items))
        self._check(task)
        await self.admission.check(caller, len(task.items) * _CHOICE_TOKENS)
        texts = await self._encoded([task.query, *task.items], caller)
        bos = self.tokenizer.bos_token_id
        query, *items = texts
        if task.begins and bos is not None and isinstance(task.query, str):
            query = array("I", [bos, *query])
        most = self.max_model_len - _CHOICE_TOKENS
        lengths = [len(query) + len(item) for item in items]
        cost = sum(min(length, most) + _CHOICE_TOKENS for length in lengths)
        engine = await admit(self, caller, model, "labels", cost)
        places = asyncio.Semaphore(_OPEN_REQUESTS)

        async def permute(place: int, item: Sequence[int]) -> DecodedWindow:
            async with places:
                prompt = [*item, *query] if task.item_first else [*query, *item]
                request = PermutationRequest(
                    prompt[:most],
                    tuple((label,) for label in task.labels),
                    task.labels[:1],
                    0,
                    model.adapter,
                    f"{caller.request_id}-{place}",
                    task.priority,
                )
                return await engine.permute(request)

        windows = await _all_or_none(permute(place, item) for place, item in enumerate(items))
        return LabelScores(
            model,
            tuple(math.exp(window.log_probs[0]) for window in windows),
            Usage.side_by_side(window.usage for window in windows),
            sum(length > most for length in lengths),
        )

    def _check(self, task: LabelTask) -> None:
        labels = task.labels
        if not 2 <= len(labels) <= MAX_IDENTIFIERS or len(set(labels)) < len(labels):
            raise InvalidRequest(
                f"label_token_ids: 2 to {MAX_IDENTIFIERS} different ones are needed", param="label_token_ids"
            )
        texts = [("query", task.query), *((f"items.{place}", one) for place, one in enumerate(task.items))]
        for name, one in [("label_token_ids", labels), *texts]:
            if not isinstance(one, str) and max(one, default=0) >= self.tokenizer.vocabulary:
                raise InvalidRequest(
                    f"{name}: the model's token ids are below {self.tokenizer.vocabulary}", param=name
                )
        if not task.query and not all(task.items):
            raise InvalidRequest("query: query and item may not both be empty", param="query")

    async def _encoded(self, texts: Sequence[Text], caller: Caller) -> list[Sequence[int]]:
        """Token ids of all texts, as many of each as the model may read."""
        if sum(map(len, texts)) <= _INLINE_CHARS and len(texts) <= _BATCH:
            return self._encode(texts)
        found: list[Sequence[int]] = []
        for start in range(0, len(texts), _BATCH):
            found += await self.threads.run(caller.tenant.id, self._encode, texts[start : start + _BATCH])
        return found

    def _encode(self, texts: Sequence[Text]) -> list[Sequence[int]]:
        most = self.max_model_len
        written = [one[: most * MAX_CHARS_PER_TOKEN] for one in texts if isinstance(one, str)]
        tokens = iter(self.tokenizer.encode_many(written))
        # An array takes a ninth of a list's memory.
        return [array("I", (next(tokens) if isinstance(one, str) else one)[:most]) for one in texts]


async def _all_or_none(calls: Iterable[Coroutine[Any, Any, DecodedWindow]]) -> list[DecodedWindow]:
    """What all calls return; the first failure cancels the others."""
    tasks = [asyncio.create_task(one) for one in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
