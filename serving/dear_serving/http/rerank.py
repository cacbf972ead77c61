"""The rerank routes: which dialect a body is in, and its ranking as one reply or as events."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dear_serving.errors import InvalidRequest
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import json_reply, read_json, validate
from dear_serving.http.dialects import documents, tei
from dear_serving.http.dialects.limits import check_count, check_texts
from dear_serving.http.streaming import stream_ranking
from dear_serving.types import OnProgress, Ranking

router = APIRouter()


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
    body = validate(documents.RerankBody, data)
    task = documents.to_task(body)
    check_texts(task, "documents", limits)
    caller: Caller = request.state.caller

    async def rank(on_progress: OnProgress | None = None) -> Ranking:
        return await gateway.rerank.rank(task, caller, on_progress)

    def reply(ranking: Ranking) -> dict[str, Any]:
        return documents.to_reply(body, task, ranking, caller.request_id)

    if body.dear is not None and body.dear.stream:
        return await stream_ranking(body, rank, reply)
    return json_reply(reply(await rank()))


async def _rerank_texts(request: Request, gateway: GatewayState, data: dict[str, Any]) -> Response:
    limits = gateway.settings.limits
    check_count(data, "texts", limits)
    body = validate(tei.TeiBody, data)
    task = tei.to_task(body)
    check_texts(task, "texts", limits)
    if body.dear is not None and body.dear.stream:
        raise InvalidRequest("dear.stream: goes with documents, not with texts", param="dear.stream")
    caller: Caller = request.state.caller
    return json_reply(tei.to_reply(body, await gateway.rerank.rank(task, caller)))
