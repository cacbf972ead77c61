"""Ranks one window: builds the engine request and reads the engine's answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

from dear_serving import tracing
from dear_serving.errors import EngineUnavailable, InvalidRequest
from dear_serving.gateway.deadline import seconds_for_engine
from dear_serving.gateway.fair_threads import Inline, Runner
from dear_serving.protocol import DecodedWindow, Engine, GenerationRequest, PermutationRequest, text_cost
from dear_serving.ranking.permutation import parse_permutation
from dear_serving.ranking.plan import RankingPlan
from dear_serving.ranking.prompts import PromptBuilder, TaskPrompts
from dear_serving.ranking.windows import Window
from dear_serving.types import MAX_IDENTIFIERS, RankTask

OnDecoded = Callable[[DecodedWindow], None]
"""Called with the window each time more of it is decided."""


def expected_cost(task: RankTask, builder: PromptBuilder, prompts: TaskPrompts, plan: RankingPlan) -> int:
    """What all requests of a task will take of the engines together: the sum of their ``cost``, with the mean
    length for every passage. What a first stage takes comes on top.
    """
    windows, widest = plan.cost.calls, min(plan.widest, MAX_IDENTIFIERS)
    if plan.cost.scored and not windows:
        return 0
    read = prompts.expected_tokens(plan.widest, windows, plan.cost.shown)
    if task.scoring == "generate":
        return text_cost(read, windows * builder.layout(widest).max_new_tokens)
    answer = builder.answer
    a_rank = max(map(len, answer.identifiers[:widest])) + len(answer.separator)
    ranks = windows if task.scoring == "first_token" else plan.cost.needed
    decoded = read + windows * len(answer.opening) + ranks * a_rank
    if not task.reasoning:
        return decoded
    reasoning = windows * builder.max_reasoning_tokens
    return text_cost(read, reasoning) + decoded + reasoning


class WindowRanker:
    """Ranks windows of one task with one adapter, by the task's ``scoring`` and ``reasoning``.

    Args:
        engine: decodes windows.
        builder: builds the prompts.
        adapter: as in GenerationRequest.
        task: the task that the windows belong to.
        prompts: ``builder.prepare(task)``, if already made.
        runner: builds the prompts, elsewhere if they are many or long.
    """

    def __init__(
        self,
        engine: Engine,
        builder: PromptBuilder,
        adapter: str | None,
        task: RankTask,
        prompts: TaskPrompts | None = None,
        runner: Runner | None = None,
    ) -> None:
        self._engine = engine
        self._builder = builder
        self._adapter = adapter
        self._task = task
        self.prompts = prompts or builder.prepare(task)
        self.runner = runner or Inline()

    async def rank(
        self,
        window: Window,
        request_id: str,
        ends_s: float = math.inf,
        on_decoded: OnDecoded | None = None,
    ) -> DecodedWindow:
        """Rank a window.

        Args:
            window: the window to rank.
            request_id: unique for each window.
            ends_s: when decoding stops (time.monotonic), but never before the first step is done.
            on_decoded: called each time more of the window is decided.

        Raises:
            InvalidRequest: the window does not fit the model, or scoring is ``first_token`` and two
                identifiers have the same first token.
            EngineUnavailable: the engine could not decode the window.
        """
        count = len(window.passages)
        with tracing.span("window", window_id=request_id, revision=self._adapter, documents=count) as span:
            decoded = await self._rank(window, request_id, ends_s, on_decoded)
            if span is not tracing.NO_SPAN:
                span.set(decided=decoded.decided, **decoded.usage.work())
            return decoded

    async def _rank(
        self, window: Window, request_id: str, ends_s: float, on_decoded: OnDecoded | None
    ) -> DecodedWindow:
        token_ids = await self.runner.run(self.prompts.window, window.passages)
        if self._task.scoring == "generate":
            return await self._free_text(token_ids, window, request_id)
        if not self._task.reasoning:
            token_ids += self._builder.answer.opening
            return await self._decode(token_ids, window, request_id, ends_s, on_decoded)
        form = self._builder.template.reasoning
        assert form is not None
        reasoning = await self._engine.generate(
            GenerationRequest(
                token_ids,
                self._builder.max_reasoning_tokens,
                self._adapter,
                f"{request_id}-reasoning",
                self._task.priority,
                form.end,
            )
        )
        token_ids = token_ids + self._builder.after_reasoning(reasoning.text, reasoning.stop)
        decoded = await self._decode(token_ids, window, request_id, ends_s, on_decoded)
        return replace(decoded, usage=reasoning.usage + decoded.usage, reasoning=reasoning.text.strip())

    async def _free_text(self, token_ids: list[int], window: Window, request_id: str) -> DecodedWindow:
        count = len(window.passages)
        generation = await self._engine.generate(
            GenerationRequest(
                token_ids,
                self._builder.layout(count).max_new_tokens,
                self._adapter,
                request_id,
                self._task.priority,
            )
        )
        permutation = parse_permutation(
            generation.text, count, first_identifier=self._builder.template.first_identifier
        )
        return DecodedWindow(
            permutation.order, count, (), usage=generation.usage, repairs=permutation.repairs
        )

    async def _decode(
        self,
        token_ids: list[int],
        window: Window,
        request_id: str,
        ends_s: float,
        on_decoded: OnDecoded | None,
    ) -> DecodedWindow:
        answer = self._builder.answer
        identifiers = answer.identifiers[: len(window.passages)]
        by_first_token = self._task.scoring == "first_token"
        if by_first_token and len({tokens[0] for tokens in identifiers}) < len(identifiers):
            raise InvalidRequest(
                f"dear.scoring: the first tokens of {len(identifiers)} identifiers do not tell them apart "
                'with this model; use "permutation" or a smaller window_size',
                param="dear.scoring",
            )
        request = PermutationRequest(
            token_ids,
            identifiers,
            answer.separator,
            0 if by_first_token else window.needed,
            self._adapter,
            request_id,
            self._task.priority,
            seconds_for_engine(ends_s),
        )
        if on_decoded is None or by_first_token:
            return await self._engine.permute(request)
        return await self._stream(request, on_decoded)

    async def _stream(self, request: PermutationRequest, on_decoded: OnDecoded) -> DecodedWindow:
        window: DecodedWindow | None = None
        async with aclosing(self._engine.permute_stream(request)) as windows:
            async for window in windows:
                on_decoded(window)
        if window is None:
            raise EngineUnavailable("the engine gave no answer")
        return window
