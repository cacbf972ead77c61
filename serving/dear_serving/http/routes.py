"""Every route, on a FastAPI app that any server can run: Ray's proxy, or a test in process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dear_serving import __version__
from dear_serving.errors import EngineUnavailable, InvalidRequest, RegistryUnavailable, RequestError
from dear_serving.gateway.ranker import Head
from dear_serving.gateway.rerank_service import Caller, GatewayState
from dear_serving.http import adapters, admin, openai
from dear_serving.http import errors as failures
from dear_serving.http.body import read_json, validate
from dear_serving.http.middleware import RequestMiddleware
from dear_serving.http.rerank import (
    DearOptions,
    RerankBody,
    TeiBody,
    check_count,
    check_limits,
    json_reply,
    rerank_content,
    tei_reply,
)
from dear_serving.http.streaming import stream_ranking
from dear_serving.types import Ranking

_READY_TIMEOUT_S = 5.0

router = APIRouter()
router.include_router(openai.router)
router.include_router(admin.router)
router.include_router(adapters.router)
router.include_router(adapters.vllm_router)


def create_app(gateway: GatewayState) -> FastAPI:
    """The whole HTTP surface over one gateway. While the app runs, so does the gateway's part in adapters."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(gateway.lifecycle.run())
        yield
        running.cancel()
        await gateway.budgets.close()
        with contextlib.suppress(RegistryUnavailable):
            await gateway.catalog.leave()

    app = FastAPI(
        lifespan=lifespan,
        title="dear-serving",
        version=__version__,
        summary="Listwise reranking with LoRA adapters.",
        exception_handlers={
            RequestError: failures.on_request_error,
            HTTPException: failures.on_http_exception,
            Exception: failures.on_unexpected,
        },
    )
    app.state.gateway = gateway
    app.include_router(router)
    app.add_middleware(RequestMiddleware, gateway=gateway)
    return app


@router.get("/health")
async def health() -> dict[str, str]:
    """The gateway's process is up."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """An engine can answer; 503 until then."""
    gateway: GatewayState = request.app.state.gateway
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await gateway.engine.check_ready()
    except TimeoutError:
        raise EngineUnavailable("no engine is ready yet", retry_after_s=_READY_TIMEOUT_S) from None
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus metrics of this gateway and, while one answers, of an engine."""
    gateway: GatewayState = request.app.state.gateway
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            of_engine = await gateway.engine.metrics()
    except (TimeoutError, EngineUnavailable):
        of_engine = ""
    gateway.metrics.queued_tokens.set(gateway.queue.tokens)
    with contextlib.suppress(RegistryUnavailable):  # what was known stays
        alive = await gateway.lifecycle.alive()
        gateway.metrics.show_held({replica.id: replica.holds for replica in alive.replicas})
    return PlainTextResponse(gateway.metrics.render() + of_engine)


@router.post("/rerank")
async def rerank_any(request: Request) -> Response:
    """vLLM's, Jina's and TEI's path; TEI's body has ``texts``, the others' ``documents``."""
    gateway: GatewayState = request.app.state.gateway
    data = await read_json(request, gateway.settings.limits.max_body_bytes)
    if "texts" in data and data.get("documents") is None:
        return await _rerank_texts(request, gateway, data)
    return await _rerank_documents(request, gateway, data)


@router.post("/v1/rerank")
@router.post("/v2/rerank")
@router.post("/v1/v2/rerank", include_in_schema=False)  # Cohere's client with a base URL in /v1
@router.post("/v1/v1/rerank", include_in_schema=False)
async def rerank(request: Request) -> Response:
    """Cohere's, Jina's and vLLM's dialect."""
    gateway: GatewayState = request.app.state.gateway
    data = await read_json(request, gateway.settings.limits.max_body_bytes)
    return await _rerank_documents(request, gateway, data)


async def _rerank_documents(request: Request, gateway: GatewayState, data: dict[str, Any]) -> Response:
    limits = gateway.settings.limits
    check_count(data, "documents", limits)
    body = validate(RerankBody, data)
    texts = body.texts()
    check_limits(body.query, texts, "documents", limits)
    caller: Caller = request.state.caller
    model = gateway.resolve(body.model, caller)
    options = body.dear or DearOptions()
    task = options.task(
        body.query,
        texts,
        top_n=body.top_n,
        max_passage_tokens=body.max_passage_tokens,
        priority=body.priority or 0,
    )

    async def rank(head: Head | None = None) -> Ranking:
        return await gateway.rank(model, task, options, caller, head)

    def content(ranking: Ranking) -> dict[str, Any]:
        return rerank_content(caller.request_id, model.name, model.revision, body, task.scoring, ranking)

    if options.stream:
        return await stream_ranking(body, rank, content)
    return json_reply(content(await rank()))


async def _rerank_texts(request: Request, gateway: GatewayState, data: dict[str, Any]) -> Response:
    limits = gateway.settings.limits
    check_count(data, "texts", limits)
    body = validate(TeiBody, data)
    check_limits(body.query, body.texts, "texts", limits)
    options = body.dear or DearOptions()
    if options.stream:
        raise InvalidRequest("dear.stream: goes with documents, not with texts", param="dear.stream")
    task = options.task(body.query, body.texts)
    caller: Caller = request.state.caller
    model = gateway.resolve(body.model, caller)
    ranking = await gateway.rank(model, task, options, caller)
    return tei_reply(body, ranking)
