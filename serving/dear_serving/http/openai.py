"""OpenAI's routes: models, chat and completions, answered by vLLM itself."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import json_reply, read_json
from dear_serving.http.errors import error_body
from dear_serving.http.streaming import event_stream
from dear_serving.protocol import OpenAIRoute

router = APIRouter(prefix="/v1")


@router.get("/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The base model and the adapters that the caller may use."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return {"object": "list", "data": [_card(gateway, model) for model in caller.visible()]}


@router.get("/models/{name:path}")
async def retrieve_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return _card(gateway, caller.find(name))


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
    served, items = await gateway.openai.answer(route, body, caller)
    try:
        first = await anext(items)
    except StopAsyncIteration:
        raise EngineUnavailable("the engine gave no answer", retry_after_s=5.0) from None
    if isinstance(first, dict):
        await items.aclose()  # its turn is over
        return json_reply(first | {"model": served.name})
    return event_stream(_events(first, items, served))


async def _events(
    first: str, rest: AsyncGenerator[str | dict[str, Any], None], served: ServedModel
) -> AsyncGenerator[str, None]:
    """The stream; an engine that fails half-way ends it with an error event, as OpenAI's does.

    The model is called what the caller calls it: engines know revisions. Inside a text of the model's the
    quotation marks would be escaped.
    """
    called = re.compile(rf'"model": ?"{re.escape(served.revision)}"')
    name = f'"model":"{served.name}"'
    async with contextlib.aclosing(rest):
        yield called.sub(name, first)
        try:
            async for item in rest:
                yield called.sub(name, item) if isinstance(item, str) else f"data: {json.dumps(item)}\n\n"
        except RequestError as error:
            yield f"data: {json.dumps(error_body(error))}\n\n"


def _card(gateway: GatewayState, model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": gateway.started_s,
        "owned_by": "dear-serving",
        "root": model.revision,
        "parent": None if model.adapter is None else gateway.settings.model.id,
        "max_model_len": gateway.settings.engine.max_model_len,
    }
