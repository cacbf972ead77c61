"""OpenAI's routes: models, chat and completions, answered by vLLM."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from dear_serving import logs
from dear_serving.errors import EngineUnavailable, RequestError, UnknownModel
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.catalog import ServedModel
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import BodyReader, json_reply, parse_as, read_parsed
from dear_serving.http.errors import error_body
from dear_serving.http.openai_replies import Completion, ModelCard, ModelList
from dear_serving.http.openapi import errors
from dear_serving.http.streaming import event_stream
from dear_serving.openai.bodies import ChatBody, CompletionBody

router = APIRouter(prefix="/v1", tags=["openai"])

_GENERATES: dict[str, Any] = {
    "responses": {
        200: {
            "model": Completion,
            "description": "vLLM's reply; with `stream` its server-sent events, `data: [DONE]` at the end.",
            "content": {"text/event-stream": {"example": "data: {...}\n\ndata: [DONE]\n\n"}},
        },
    }
    | errors(UnknownModel, EngineUnavailable)
}


@dataclass(frozen=True, slots=True, eq=False)
class OpenAIReader(BodyReader):
    """Reads a body of as many bytes as rerank bodies may have."""

    async def __call__(self, request: Request) -> Any:
        """The body, checked."""
        gateway: GatewayState = request.app.state.gateway
        parse = partial(parse_as, self.models[0])
        return await read_parsed(request, gateway.settings.limits.max_body_bytes, parse)


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """The models that the caller may use, the base model first."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return ModelList(data=[_card(gateway, model) for model in caller.visible()])


@router.get("/models/{name:path}", responses=errors(UnknownModel))
async def retrieve_model(request: Request, name: Annotated[str, Path(examples=["legal"])]) -> ModelCard:
    """One model that the caller may use."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    return _card(gateway, caller.find(name))


@router.post("/chat/completions", **_GENERATES)
async def chat(request: Request, body: Annotated[ChatBody, Depends(OpenAIReader(ChatBody))]) -> Response:
    """OpenAI chat."""
    return await _forward(request, body)


@router.post("/completions", **_GENERATES)
async def completions(
    request: Request, body: Annotated[CompletionBody, Depends(OpenAIReader(CompletionBody))]
) -> Response:
    """OpenAI completions."""
    return await _forward(request, body)


async def _forward(request: Request, body: ChatBody | CompletionBody) -> Response:
    """Send the body to an engine; the first item decides between an error, a reply and a stream."""
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    served, items = await gateway.openai.answer(body, caller)
    try:
        first = await anext(items)
    except StopAsyncIteration:
        raise EngineUnavailable("the engine gave no answer", retry_after_s=5.0) from None
    if isinstance(first, dict):
        await items.aclose()  # its turn is over
        usage = first.get("usage") or {}
        logs.note(**{name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")})
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


def _card(gateway: GatewayState, model: ServedModel) -> ModelCard:
    return ModelCard(
        id=model.name,
        created=gateway.started_s,
        root=model.revision,
        parent=None if model.adapter is None else gateway.settings.model.id,
        max_model_len=gateway.settings.engine.max_model_len,
    )
