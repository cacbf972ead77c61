"""The engines for one tenant: calls go through the fair queue."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from dear_serving import logs, tracing
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.metrics import Metrics
from dear_serving.protocol import (
    DecodedWindow,
    Engine,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    PromptScores,
    ScoreRequest,
)
from dear_serving.tenancy.tenants import Tenant
from dear_serving.types import Usage

_Request = GenerationRequest | PermutationRequest | ScoreRequest | OpenAIRequest
_R = TypeVar("_R", GenerationRequest, PermutationRequest, ScoreRequest, OpenAIRequest)
_Timed = TypeVar("_Timed", PermutationRequest, ScoreRequest)


class Service(Protocol):
    """What answers callers on the engines."""

    @property
    def engine(self) -> Engine: ...
    @property
    def queue(self) -> FairQueue: ...
    @property
    def admission(self) -> TokenAdmission: ...
    @property
    def metrics(self) -> Metrics: ...


async def admit(service: Service, caller: Caller, model: ServedModel, kind: str, cost: int) -> TenantEngine:
    """Admit a request of this cost, count it by its ``kind``, and give it the engines.

    Raises:
        Overloaded, RateLimited, PayloadTooLarge: see TokenAdmission.admit.
    """
    with tracing.span("admit tokens", tokens=cost):
        await service.admission.admit(caller, cost)
    metrics = service.metrics
    metrics.admission_seconds.observe(time.monotonic() - caller.arrived_s)
    metrics.count_model(caller.tenant.id, model.revision, kind)
    return TenantEngine(service.engine, service.queue, caller.tenant, metrics.turn_seconds.observe)


class TenantEngine:
    """Implements protocol.Engine: every call waits for the tenant's turn, carries its cache salt, and has a
    priority that it may have.

    Args:
        engine: the engines, shared by all tenants.
        queue: decides which tenant goes next.
        tenant: the tenant of all calls.
        on_turn: called with the seconds that each call waited for its turn.
    """

    def __init__(
        self,
        engine: Engine,
        queue: FairQueue,
        tenant: Tenant,
        on_turn: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._tenant = tenant
        self._on_turn = on_turn

    def elsewhere(self, engine: Any, queue: FairQueue) -> TenantEngine:
        """The same tenant's turns at other engines."""
        return TenantEngine(engine, queue, self._tenant, self._on_turn)

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol; ``queue_ms`` includes the wait in the fair queue."""
        request = self._own(request)
        async with self._turn(request) as waited:
            done = await self._engine.generate(request)
        return replace(done, usage=waited + done.usage)

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol; the deadline and ``queue_ms`` include the wait in the fair queue."""
        request = self._own(request)
        async with self._turn(request) as waited:
            window = await self._engine.permute(_left(request, waited))
        return replace(window, usage=waited + window.usage)

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol and ``permute``."""
        request = self._own(request)
        async with (
            self._turn(request) as waited,
            aclosing(self._engine.permute_stream(_left(request, waited))) as windows,
        ):
            async for window in windows:
                yield replace(window, usage=waited + window.usage)

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol and ``permute``."""
        request = self._own(request)
        async with self._turn(request) as waited:
            scores = await self._engine.score(_left(request, waited))
        return replace(scores, usage=waited + scores.usage)

    @asynccontextmanager
    async def _turn(self, request: _Request) -> AsyncIterator[Usage]:
        """Wait for the tenant's turn; yields the time waited."""
        arrived_s = time.monotonic()
        waiting = tracing.span("fair turn")
        try:
            async with self._queue.turn(
                self._tenant.id,
                self._tenant.weight,
                request.cost,
                request.priority,
                tokens=request.tokens,
                is_text=not isinstance(request, PermutationRequest | ScoreRequest),
            ):
                waiting.end()
                waited_s = time.monotonic() - arrived_s
                self._on_turn(waited_s)
                yield Usage(queue_ms=waited_s * 1e3)
        finally:
            waiting.end()

    def _own(self, request: _R) -> _R:
        """The request with the tenant's cache salt, and no higher a priority than the tenant's."""
        priority = max(request.priority, self._tenant.limits.highest_priority or 0)
        return replace(request, cache_salt=self._tenant.cache_salt, priority=priority)

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        request = self._own(request)
        async with (
            self._turn(request) as waited,
            aclosing(self._engine.openai(request)) as items,
        ):
            logs.note(queue_ms=waited.queue_ms)
            async for item in items:
                yield item

    async def check_ready(self) -> None:
        """See the protocol."""
        await self._engine.check_ready()

    async def metrics(self) -> str:
        """See the protocol."""
        return await self._engine.metrics()


def _left(request: _Timed, waited: Usage) -> _Timed:
    """The request with the rest of its deadline."""
    if request.deadline_s is None:
        return request
    return replace(request, deadline_s=max(0.0, request.deadline_s - waited.queue_ms / 1e3))
