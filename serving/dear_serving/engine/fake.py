"""A deterministic Engine for tests: it answers what it is told to, lies, stalls and dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from dear_serving.engine.protocol import EngineRequest, OpenAIRoute
from dear_serving.errors import EngineUnavailable
from dear_serving.types import Generation


@dataclass
class FakeEngine:
    """Answers each window with ``write(request)``; counts what was asked, finished and cancelled."""

    write: Callable[[EngineRequest], str]
    delay_s: float = 0.0
    dead: bool = False
    requests: list[EngineRequest] = field(default_factory=list)
    finished: int = 0
    cancelled: int = 0

    async def generate(self, request: EngineRequest) -> Generation:
        """See the protocol."""
        self.requests.append(request)
        await self._work()
        text = self.write(request)
        return Generation(text, len(request.token_ids), len(text.split()), 1.0, 2.0)

    async def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncIterator[str | dict[str, Any]]:
        """See the protocol."""
        await self._work()
        reply = {"id": request_id, "object": route, "model": body["model"], "choices": []}
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
        await self.check_ready()
        return "# HELP fake_requests_total Requests.\nfake_requests_total 1.0\n"

    async def _work(self) -> None:
        await self.check_ready()
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.finished += 1
