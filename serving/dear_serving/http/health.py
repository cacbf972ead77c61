"""Health, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from dear_serving.errors import EngineUnavailable, ShuttingDown
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.openapi import errors
from dear_serving.http.recent import Recent, max_age_s
from dear_serving.http.reply import Reply
from dear_serving.metrics import Page, add_up, count_gateways, join

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
    """Prometheus metrics of all gateways, added up. A tenant gets its own; with the admin key, or
    `tenancy.open_metrics`, all of them come, and those of each engine, labelled `replica`. What does not
    answer in three seconds is left out: `dear_gateways_answered` says how many of `dear_gateways` did. All of
    them may be as old as a `Cache-Control: max-age` of the request allows, ten seconds at most.
    """
    gateway: GatewayState = request.app.state.gateway
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is not None:
        return PlainTextResponse(await _of_gateways(gateway, caller.tenant.id))
    recent: Recent[str] = request.app.state.all_metrics
    text, age_s = await recent.get(max_age_s(request.headers))
    return PlainTextResponse(text, headers={"Age": str(int(age_s))})


async def all_metrics(gateway: GatewayState) -> str:
    """The metrics of all gateways, added up, and of each engine."""
    asking = [_of_gateways(gateway), gateway.engine.metrics()]
    if gateway.rerank.first_stage is not None and gateway.rerank.first_stage.own is not None:
        asking.append(gateway.rerank.first_stage.own.client.metrics())
    return join(await asyncio.gather(*asking))


async def _of_gateways(gateway: GatewayState, tenant: str | None = None) -> str:
    pages: list[Page] = []
    running = 0
    if gateway.ask_gateways is not None:
        pages, running = await gateway.ask_gateways(tenant)
    if not pages:  # Serve does not know of this one yet, or no more
        pages = [gateway.metrics.page(tenant)]
    added = await asyncio.to_thread(add_up, pages)
    return added if tenant is not None else added + count_gateways(max(running, len(pages)), len(pages))
