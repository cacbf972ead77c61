"""A deterministic Engine for tests: it answers what it is told to, lies, stalls and dies."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import (
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    PromptScores,
    ScoreRequest,
)
from dear_serving.types import Usage


@dataclass
class FakeEngine:
    """Answers free text with ``write(request)``, ranks each window in the order of ``prefer(request)``, and
    gives each prompt the log odds ``rate(prompt)``; None: it is not done in time.

    Counts what was asked, finished and cancelled. Log probabilities halve from one preferred position to the
    next; ``decides`` is how many ranks it decides before a request's deadline, where there is one.
    """

    write: Callable[[GenerationRequest], str]
    prefer: Callable[[PermutationRequest], Sequence[int]] = lambda request: range(len(request.identifiers))
    rate: Callable[[Sequence[int]], float | None] = lambda prompt: 0.0
    delay_s: float = 0.0
    dead: bool = False
    decides: int | None = None
    requests: list[GenerationRequest | PermutationRequest] = field(default_factory=list)
    scored: list[ScoreRequest] = field(default_factory=list)
    asked: list[OpenAIRequest] = field(default_factory=list)
    finished: int = 0
    cancelled: int = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol."""
        self.requests.append(request)
        await self._work()
        text = self.write(request)
        return Generation(text, Usage(len(request.token_ids), len(text.split()), 1.0, 2.0))

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        self.requests.append(request)
        await self._work()
        return self._window(request, request.needed)

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        self.requests.append(request)
        await self._work()
        for decided in range(1, max(1, request.needed) + 1):
            await asyncio.sleep(0)
            yield self._window(request, decided)

    def _window(self, request: PermutationRequest, decided: int) -> DecodedWindow:
        preferred = tuple(self.prefer(request))
        if self.decides is not None and request.deadline_s is not None:
            decided = min(decided, self.decides)
        log_probs = [0.0] * len(preferred)
        for rank, position in enumerate(preferred, start=1):
            log_probs[position] = -rank * math.log(2)
        return DecodedWindow(
            preferred, decided, tuple(log_probs), Usage(len(request.token_ids), max(1, decided), 1.0, 2.0)
        )

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol."""
        self.scored.append(request)
        await self._work()
        tokens = sum(map(len, request.prompts))
        return PromptScores(
            tuple(map(self.rate, request.prompts)), Usage(tokens, len(request.prompts), 1.0, 2.0)
        )

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        self.asked.append(request)
        await self._work()
        body = request.body
        reply = {"id": request.request_id, "object": request.route, "model": body["model"], "choices": []}
        if body.get("stream"):
            yield f"data: {json.dumps(reply)}\n\n"
            yield "data: [DONE]\n\n"
        else:
            yield reply

    async def check_ready(self) -> None:
        """See the protocol."""
        if self.dead:
            raise EngineUnavailable("no engine can answer now", retry_after_s=5.0)

    async def metrics(self) -> str:
        """See the protocol."""
        return "" if self.dead else "# HELP fake_requests_total Requests.\nfake_requests_total 1.0\n"

    async def _work(self) -> None:
        await self.check_ready()
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
