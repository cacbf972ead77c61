"""How one window's order is read off the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from dear_serving.errors import EngineUnavailable, InvalidRequest
from dear_serving.protocol import Engine, GenerationRequest, PermutationRequest
from dear_serving.ranking.permutation import parse_permutation
from dear_serving.ranking.prompts import Prompt, PromptBuilder, TaskPrompts
from dear_serving.ranking.windows import Window
from dear_serving.types import DecodedWindow, Generation, Order, RankTask, Repairs

# What is left of a deadline for the way back from the engine: this share of it, and at most so much.
_WAY_BACK_SHARE, _WAY_BACK_S = 0.1, 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """One window's order, and how it was had.

    ``decided`` counts the ranks decided one by one (all of them in free text); ``runs`` are the engine's
    answers, one after the other; ``window`` is the decoded one, None for free text.
    """

    order: Order
    decided: int
    runs: tuple[Generation | DecodedWindow, ...]
    window: DecodedWindow | None = None
    repairs: Repairs = field(default=Repairs())
    reasoning: str | None = None


class Reader:
    """Reads windows of one task with one adapter, as the task's ``scoring`` and ``reasoning`` say."""

    def __init__(self, engine: Engine, builder: PromptBuilder, adapter: str | None, task: RankTask) -> None:
        self._engine = engine
        self._builder = builder
        self._adapter = adapter
        self._task = task
        self.prompts: TaskPrompts = builder.prepare(task)

    async def read(
        self,
        window: Window,
        request_id: str,
        ends_s: float = math.inf,
        told: Callable[[DecodedWindow], None] | None = None,
    ) -> Reading:
        """Rank a window.

        Args:
            request_id: unique among windows.
            ends_s: until when (time.monotonic) ranks are decided, once the first step is done.
            told: called with the window each time more of it is decided.

        Raises:
            InvalidRequest: the window does not fit the model, or has identifiers that begin alike and
                cannot be told apart by their first token, where only that is asked for.
            EngineUnavailable: the engine could not decode it.
        """
        prompt = self.prompts.window(window.passages)
        if self._task.scoring == "generate":
            return await self._free_text(prompt, window, request_id)
        if not self._task.reasoning:
            return await self._decode(
                [*prompt.token_ids, *self._builder.answer.opening], window, request_id, ends_s, told
            )
        form = self._builder.template.reasoning
        assert form is not None
        thought = await self._engine.generate(
            GenerationRequest(
                prompt.token_ids,
                self._builder.max_reasoning_tokens,
                self._adapter,
                f"{request_id}-reasoning",
                self._task.priority,
                form.end,
            )
        )
        tokens = [*prompt.token_ids, *self._builder.after_reasoning(thought.text, thought.stop)]
        reading = await self._decode(tokens, window, request_id, ends_s, told)
        return Reading(
            reading.order,
            reading.decided,
            (thought, *reading.runs),
            reading.window,
            reasoning=thought.text.strip(),
        )

    async def _free_text(self, prompt: Prompt, window: Window, request_id: str) -> Reading:
        generation = await self._engine.generate(
            GenerationRequest(
                prompt.token_ids, prompt.max_new_tokens, self._adapter, request_id, self._task.priority
            )
        )
        permutation = parse_permutation(
            generation.text,
            len(window.passages),
            first_identifier=self._builder.template.first_identifier,
        )
        return Reading(permutation.order, len(permutation.order), (generation,), repairs=permutation.repairs)

    async def _decode(
        self,
        token_ids: list[int],
        window: Window,
        request_id: str,
        ends_s: float,
        told: Callable[[DecodedWindow], None] | None,
    ) -> Reading:
        answer = self._builder.answer
        identifiers = answer.identifiers[: len(window.passages)]
        by_first_token = self._task.scoring == "first_token"
        if by_first_token and len({tokens[0] for tokens in identifiers}) < len(identifiers):
            raise InvalidRequest(
                f"dear.scoring: the first tokens of {len(identifiers)} identifiers do not tell them apart "
                'with this model; use "permutation" or a smaller window_size',
                param="dear.scoring",
            )
        left_s = ends_s - time.monotonic()
        request = PermutationRequest(
            token_ids,
            identifiers,
            answer.separator,
            0 if by_first_token else window.needed,
            self._adapter,
            request_id,
            self._task.priority,
            None if math.isinf(left_s) else left_s - min(_WAY_BACK_S, _WAY_BACK_SHARE * left_s),
        )
        if told is None or by_first_token:
            decoded = await self._engine.permute(request)
        else:
            decoded = await self._stream(request, told)
        return Reading(decoded.order, decoded.decided, (decoded,), decoded)

    async def _stream(
        self, request: PermutationRequest, told: Callable[[DecodedWindow], None]
    ) -> DecodedWindow:
        window: DecodedWindow | None = None
        async with aclosing(self._engine.permute_stream(request)) as windows:
            async for window in windows:
                told(window)
        if window is None:
            raise EngineUnavailable("the engine gave no answer")
        return window
