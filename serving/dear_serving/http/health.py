"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from dear_serving.errors import EngineUnavailable, RegistryUnavailable, ShuttingDown
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.openapi import errors
from dear_serving.http.reply import Reply

_READY_TIMEOUT_S = 5.0

router = APIRouter(tags=["health"])


class Health(Reply):
    """The gateway's process is up."""

    status: Literal["ok"] = "ok"


class Readiness(Reply):
    """An engine can answer."""

    status: Literal["ready"] = "ready"


@router.get("/health")
async def health() -> Health:
    """The gateway's process is up."""
    return Health()


@router.get("/ready", responses=errors(EngineUnavailable, ShuttingDown))
async def ready(request: Request) -> Readiness:
    """An engine can answer; 503 until then, and once the server is about to end."""
    gateway: GatewayState = request.app.state.gateway
    gateway.drain.check_ready()
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await gateway.engine.check_ready()
    except TimeoutError:
        raise EngineUnavailable("no engine is ready yet", retry_after_s=_READY_TIMEOUT_S) from None
    return Readiness()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus metrics. A tenant gets its own; with the admin key, or `tenancy.open_metrics`, all of this
    gateway come, and those of an engine if one answers.
    """
    gateway: GatewayState = request.app.state.gateway
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is not None:
        return PlainTextResponse(gateway.metrics.render(caller.tenant.id))
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            of_engine = await gateway.engine.metrics()
    except (TimeoutError, EngineUnavailable):
        of_engine = ""
    gateway.metrics.queued_tokens.set(gateway.queue.cost)
    engines = gateway.peers.engines  # not known before the first request
    gateway.metrics.engines.set(math.nan if engines is None else engines)
    with contextlib.suppress(RegistryUnavailable):  # the last values stay
        alive = await gateway.lifecycle.alive()
        gateway.metrics.show_held({replica.id: replica.holds for replica in alive.replicas})
    return PlainTextResponse(gateway.metrics.render() + of_engine)
