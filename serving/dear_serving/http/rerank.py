"""The rerank routes, one for each path of the dialects' table: a body as a task, its ranking as one reply or
as events.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from dear_serving.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest, UnknownModel
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import BodyReader, encode_json, read_parsed
from dear_serving.http.dialects.dialect import Dialect, Parsed
from dear_serving.http.dialects.documents import RerankBody
from dear_serving.http.dialects.limits import check_texts
from dear_serving.http.dialects.parse import parse_rerank
from dear_serving.http.dialects.table import DIALECTS, PATHS
from dear_serving.http.openapi import WARNINGS, errors
from dear_serving.http.streaming import stream_ranking
from dear_serving.types import OnProgress, Ranking

router = APIRouter(tags=["rerank"])
compat_router = APIRouter(tags=["rerank"])
"""Comes last: a route is found by trying one after the other."""

_TWICE = {"/v1/v2/rerank": "/v2/rerank", "/v1/v1/rerank": "/v1/rerank"}
"""Where Cohere's client gets with a base URL that ends in ``/v1``."""

_EVENTS = """event: rank
data: {"rank":0,"index":1,"relevance_score":0.827397}

event: rank
data: {"rank":1,"index":0,"relevance_score":0.336221}

event: ranking
data: {"id":"6f2c","model":"legal","object":"list","results":[...],"usage":{...},"meta":{...}}

data: [DONE]

"""


@dataclass(frozen=True, slots=True, eq=False)
class RerankReader(BodyReader):
    """Reads a rerank body in one of the dialects of its path."""

    names: tuple[str, ...] = ()

    async def __call__(self, request: Request) -> Parsed:
        """The body, read."""
        gateway: GatewayState = request.app.state.gateway
        limits = gateway.settings.limits
        has_api_key = "api-key" in request.headers
        parse = partial(
            parse_rerank, self.names, has_api_key, limits.max_documents, limits.max_document_chars
        )
        return await read_parsed(request, limits.max_body_bytes, parse)


async def _answer(request: Request, read: Parsed) -> Response:
    gateway: GatewayState = request.app.state.gateway
    caller: Caller = request.state.caller
    dialect, body, task = DIALECTS[read.dialect], read.body, read.task
    check_texts(task, read.passages, read.query, gateway.settings.limits)
    if body.dear is not None and body.dear.confidence and not dialect.has_meta:
        raise InvalidRequest(
            f"dear.confidence: replies of {dialect.title} have no place for it", param="dear.confidence"
        )
    streams = body.dear is not None and bool(body.dear.stream)
    if streams and not dialect.has_meta:
        raise InvalidRequest(
            f"dear.stream: there is no stream in the dialect of {dialect.title}", param="dear.stream"
        )

    async def rank(on_progress: OnProgress | None = None) -> Ranking:
        ranking = await gateway.rerank.rank(task, caller, on_progress)
        return replace(ranking, warnings=read.warnings + ranking.warnings)

    def reply(ranking: Ranking) -> Any:
        return dialect.to_reply(body, task, ranking, caller.request_id)

    if streams:
        assert isinstance(body, RerankBody)
        return await stream_ranking(body, rank, reply, partial(encode_json, request))
    ranking = await rank()
    has_header = bool(ranking.warnings) and not dialect.has_meta
    headers = {WARNINGS: json.dumps(ranking.warnings)} if has_header else None
    return Response(
        await encode_json(request, reply(ranking)), media_type="application/json", headers=headers
    )


def _add_route(path: str, dialects: Sequence[Dialect]) -> None:
    bodies = dict.fromkeys(one.body for one in dialects)
    reader = RerankReader(
        reduce(or_, bodies),
        examples={name: body for one in dialects for name, body in one.examples.items()},
        names=tuple(one.name for one in dialects),
    )

    async def answer(request: Request, read: Parsed) -> Response:
        return await _answer(request, read)

    answer.__annotations__["read"] = Annotated[Parsed, Depends(reader)]

    titles = ", ".join(one.title for one in dialects)
    found = compat_router if path.startswith("/compat/") else router
    found.add_api_route(
        path,
        answer,
        methods=["POST"],
        name="rerank_" + path.strip("/").translate(str.maketrans("/-:{}", "_____")),
        summary=f"Rerank, as {titles}",
        description=_described(dialects),
        responses=_replies(dialects),
        openapi_extra=_extra(dialects),
        include_in_schema=path not in _TWICE,
    )


def _described(dialects: Sequence[Dialect]) -> str:
    links = "; ".join(f"[{one.title}]({one.docs})" for one in dialects)
    if len(dialects) == 1:
        return f"The request and reply of {links}. Fields that it does not have are ignored, with a warning."
    return (
        f"The requests and replies of {links}. A body is the first one's that it fits: Bedrock's has "
        "`sources`, text-embeddings-inference's `texts` and no `documents`, Pinecone's `rank_fields` while "
        "the key is in the header `Api-Key`, Voyage's `truncation` or `top_k`, SGLang's `instruct`; any "
        f"other is the last one's. With `{dialects[0].folder}` and the like in front, a path says which."
    )


def _replies(dialects: Sequence[Dialect]) -> dict[int | str, dict[str, Any]]:
    own: dict[str, Any] = {
        "model": reduce(or_, dict.fromkeys(one.reply for one in dialects)),
        "description": "The order.",
    }
    if any(one.has_meta for one in dialects):
        own["content"] = {"text/event-stream": {"example": _EVENTS}}
        own["description"] += (
            " With `dear.stream`: a `rank` event for each result, then a `ranking` event with the whole "
            "reply, then `data: [DONE]`; an error after the first event is an `error` event."
        )
    return errors(UnknownModel, EngineUnavailable, DeadlineExceeded) | {200: own}


def _extra(dialects: Sequence[Dialect]) -> dict[str, Any] | None:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "examples": [value]}}
        for one in dialects
        for name, value in one.parameters.items()
    ]
    return {"parameters": parameters} if parameters else None


for _path, _dialects in PATHS.items():
    _add_route(_path, _dialects)
for _path, _same in _TWICE.items():
    _add_route(_path, PATHS[_same])
