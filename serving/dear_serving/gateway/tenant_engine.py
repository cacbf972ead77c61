"""The engines as one tenant sees them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.protocol import Engine, GenerationRequest, OpenAIRoute, PermutationRequest
from dear_serving.tenancy.tenants import Tenant
from dear_serving.types import DecodedWindow, Generation

_CHARS_PER_TOKEN = 4
_DEFAULT_NEW_TOKENS = 256


class TenantEngine:
    """Implements engine.protocol.Engine: every call waits for the tenant's turn, and has its cache salt.

    Args:
        engine: the engines of all.
        queue: who goes next.
        tenant: whose calls these are.
    """

    def __init__(self, engine: Engine, queue: FairQueue, tenant: Tenant) -> None:
        self._engine = engine
        self._queue = queue
        self._tenant = tenant

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol; ``queue_ms`` counts the wait for the turn too."""
        cost = len(request.token_ids) + request.max_tokens
        async with self._turn(cost, request.priority) as waited_s:
            done = await self._engine.generate(replace(request, cache_salt=self._tenant.cache_salt))
        return replace(done, queue_ms=done.queue_ms + waited_s * 1e3)

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol; the deadline and ``queue_ms`` count the wait for the turn too."""
        async with self._turn(window_tokens(request), request.priority) as waited_s:
            window = await self._engine.permute(self._left(request, waited_s))
        return replace(window, queue_ms=window.queue_ms + waited_s * 1e3)

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol and ``permute``."""
        async with (
            self._turn(window_tokens(request), request.priority) as waited_s,
            aclosing(self._engine.permute_stream(self._left(request, waited_s))) as windows,
        ):
            async for window in windows:
                yield replace(window, queue_ms=window.queue_ms + waited_s * 1e3)

    @asynccontextmanager
    async def _turn(self, cost: int, priority: int = 0) -> AsyncIterator[float]:
        """The tenant's turn; gives the seconds it was waited for."""
        arrived_s = time.monotonic()
        async with self._queue.turn(self._tenant.id, self._tenant.weight, cost, priority):
            yield time.monotonic() - arrived_s

    def _left(self, request: PermutationRequest, waited_s: float) -> PermutationRequest:
        """The request with the tenant's salt, and what the wait has left of its deadline."""
        deadline_s = request.deadline_s
        return replace(
            request,
            cache_salt=self._tenant.cache_salt,
            deadline_s=None if deadline_s is None else max(0.0, deadline_s - waited_s),
        )

    async def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol. A caller's own cache_salt gives way to the tenant's."""
        body = {name: value for name, value in body.items() if name != "cache_salt"}
        if self._tenant.cache_salt is not None:
            body["cache_salt"] = self._tenant.cache_salt
        async with (
            self._turn(openai_tokens(body)),
            aclosing(self._engine.openai(route, body, request_id)) as items,
        ):
            async for item in items:
                yield item

    async def check_ready(self) -> None:
        """See the protocol."""
        await self._engine.check_ready()

    async def metrics(self) -> str:
        """See the protocol."""
        return await self._engine.metrics()


def window_tokens(request: PermutationRequest) -> int:
    """Tokens of a window: its prompt, and the identifiers and separators of its answer."""
    longest = max(map(len, request.identifiers), default=1)
    return len(request.token_ids) + max(1, request.needed) * (longest + len(request.separator))


def openai_tokens(body: Mapping[str, Any]) -> int:
    """About how many tokens an OpenAI request takes: text by its length, and what it may write."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    new = asked if isinstance(asked, int) and asked > 0 else _DEFAULT_NEW_TOKENS
    copies = body.get("n")
    return (
        _length(body.get("messages") or body.get("prompt")) // _CHARS_PER_TOKEN
        + 1
        + new * (copies if isinstance(copies, int) and copies > 0 else 1)
    )


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_length, value.values()))
    if isinstance(value, list):
        return sum(map(_length, value))
    return _CHARS_PER_TOKEN if isinstance(value, int) else 0
