"""The engines as one tenant sees them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from dear_serving.engine.protocol import Engine, EngineRequest, OpenAIRoute, PermutationRequest
from dear_serving.tenancy.fairness import FairQueue
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

    async def generate(self, request: EngineRequest) -> Generation:
        """See the protocol."""
        cost = len(request.token_ids) + request.max_tokens
        async with self._queue.turn(self._tenant.id, self._tenant.weight, cost, request.priority):
            return await self._engine.generate(replace(request, cache_salt=self._tenant.cache_salt))

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        async with self._queue.turn(
            self._tenant.id, self._tenant.weight, window_tokens(request), request.priority
        ):
            return await self._engine.permute(replace(request, cache_salt=self._tenant.cache_salt))

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        salted = replace(request, cache_salt=self._tenant.cache_salt)
        async with (
            self._queue.turn(self._tenant.id, self._tenant.weight, window_tokens(request), request.priority),
            aclosing(self._engine.permute_stream(salted)) as windows,
        ):
            async for window in windows:
                yield window

    async def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol. A caller's own cache_salt gives way to the tenant's."""
        body = {name: value for name, value in body.items() if name != "cache_salt"}
        if self._tenant.cache_salt is not None:
            body["cache_salt"] = self._tenant.cache_salt
        async with (
            self._queue.turn(self._tenant.id, self._tenant.weight, openai_tokens(body)),
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
