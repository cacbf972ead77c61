"""OpenAI's routes: models, chat and completions, answered by vLLM itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dear_serving.api.body import read_json
from dear_serving.api.failures import error_body
from dear_serving.api.gateway import Caller, GatewayState
from dear_serving.api.rerank import json_reply
from dear_serving.api.streaming import event_stream
from dear_serving.engine.protocol import OpenAIRoute
from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError

router = APIRouter(prefix="/v1")


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The base model and the adapters that the caller may use."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return {"object": "list", "data": [_card(gateway, name) for name in gateway.visible(caller.tenant)]}


@router.get("/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return _card(gateway, gateway.resolve(name, caller.tenant))


@router.post("/chat/completions")
async def chat(request: Request) -> Response:
    """OpenAI chat."""
    return await _forward(request, "chat")


@router.post("/completions")
async def completions(request: Request) -> Response:
    """OpenAI completions."""
    return await _forward(request, "completions")


async def _forward(request: Request, route: OpenAIRoute) -> Response:
    """Send the body to an engine; the first item decides between an error, a reply and a stream."""
    gateway: GatewayState = request.app.state.gateway
    body = await read_json(request, gateway.settings.limits.max_body_bytes)
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model: a text is needed", param="model")
    caller: Caller = request.state.caller
    body["model"] = gateway.resolve(model, caller.tenant)
    await gateway.admit_openai(caller, body)
    items = gateway.engine_for(caller.tenant).openai(route, body, caller.request_id)
    try:
        first = await anext(items)
    except StopAsyncIteration:
        raise EngineUnavailable("the engine gave no answer", retry_after_s=5.0) from None
    if isinstance(first, dict):
        await items.aclose()  # its turn is over
        return json_reply(first)
    return event_stream(_events(first, items))


async def _events(first: str, rest: AsyncGenerator[str | dict[str, Any], None]) -> AsyncGenerator[str, None]:
    """The stream; an engine that fails half-way ends it with an error event, as OpenAI's does."""
    async with contextlib.aclosing(rest):
        yield first
        try:
            async for item in rest:
                yield item if isinstance(item, str) else f"data: {json.dumps(item)}\n\n"
        except RequestError as error:
            yield f"data: {json.dumps(error_body(error))}\n\n"


def _card(gateway: GatewayState, name: str) -> dict[str, Any]:
    base = gateway.settings.model.id
    return {
        "id": name,
        "object": "model",
        "created": gateway.started_s,
        "owned_by": "dear-serving",
        "root": gateway.revisions[name],
        "parent": None if name == base else base,
        "max_model_len": gateway.settings.engine.max_model_len,
    }
