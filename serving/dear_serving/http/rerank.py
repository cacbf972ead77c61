"""The rerank routes: which dialect a body is in, and its ranking as one reply or as events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from dear_serving.errors import DeadlineExceeded, EngineUnavailable, InvalidRequest, UnknownModel
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import BodyReader, encode_json, read_parsed
from dear_serving.http.dialects import documents, tei
from dear_serving.http.dialects.documents import RerankBody
from dear_serving.http.dialects.limits import check_texts
from dear_serving.http.dialects.parse import parse_rerank
from dear_serving.http.dialects.reply import RerankReply
from dear_serving.http.dialects.tei import TeiBody, TeiResult
from dear_serving.http.openapi import errors
from dear_serving.http.streaming import stream_ranking
from dear_serving.types import OnProgress, Ranking

router = APIRouter(tags=["rerank"])

_TEXTS = ["A permit is cheap", "Parking permit prices"]
_EXAMPLES: dict[str, Any] = {
    "Cohere v2": {"model": "legal", "query": "parking permit", "documents": _TEXTS, "top_n": 1},
    "Cohere v1": {
        "query": "parking permit",
        "documents": [{"title": "Prices", "body": "A permit is cheap"}, {"title": "Fines", "body": "None"}],
        "rank_fields": ["title", "body"],
        "return_documents": True,
    },
    "Jina": {"query": "parking permit", "documents": [{"text": text} for text in _TEXTS], "top_n": None},
    "vLLM": {"query": "parking permit", "documents": _TEXTS, "truncate_prompt_tokens": 64, "priority": 1},
    "options of this server": {
        "query": "parking permit",
        "documents": _TEXTS,
        "dear": {"strategy": "sliding", "window_size": 20, "step": 10, "deadline_ms": 5000},
    },
    "as a stream": {"query": "parking permit", "documents": _TEXTS, "dear": {"stream": True}},
}
_TEI_EXAMPLES = {
    "text-embeddings-inference": {"query": "parking permit", "texts": _TEXTS, "return_text": True}
}
_EVENTS = """event: rank
data: {"rank":0,"index":1,"relevance_score":0.827397}

event: rank
data: {"rank":1,"index":0,"relevance_score":0.336221}

event: ranking
data: {"id":"6f2c","model":"legal","object":"list","results":[...],"usage":{...},"meta":{...}}

data: [DONE]

"""


def _replies(model: Any) -> dict[int | str, dict[str, Any]]:
    own = {
        "model": model,
        "description": (
            "The order. With `dear.stream`: a `rank` event for each result, then a `ranking` event with the "
            "whole reply, then `data: [DONE]`; an error after the first event is an `error` event."
        ),
        "content": {"text/event-stream": {"example": _EVENTS}},
    }
    return errors(UnknownModel, EngineUnavailable, DeadlineExceeded) | {200: own}


@dataclass(frozen=True, slots=True, eq=False)
class RerankReader(BodyReader):
    """Reads a rerank body in its dialect."""

    async def __call__(self, request: Request) -> RerankBody | TeiBody:
        """The body; TEI's has ``texts`` and no ``documents``."""
        gateway: GatewayState = request.app.state.gateway
        limits = gateway.settings.limits
        parse = partial(parse_rerank, limits.max_documents, TeiBody in self.models)
        return await read_parsed(request, limits.max_body_bytes, parse)


_Documents = Annotated[RerankBody, Depends(RerankReader(RerankBody, examples=_EXAMPLES))]
_Any = Annotated[
    RerankBody | TeiBody, Depends(RerankReader(RerankBody | TeiBody, examples=_EXAMPLES | _TEI_EXAMPLES))
]


@router.post("/rerank", responses=_replies(RerankReply | list[TeiResult]))
async def rerank(request: Request, body: _Any) -> Response:
    """The path of vLLM, Jina and TEI. A body with ``texts`` and without ``documents`` is TEI's, and its reply
    is a bare array. Every other body is as for /v1/rerank.
    """
    if isinstance(body, TeiBody):
        return await _rerank_texts(request, body)
    return await _rerank_documents(request, body)


@router.post("/v1/rerank", name="rerank_v1", responses=_replies(RerankReply))
@router.post("/v2/rerank", name="rerank_v2", responses=_replies(RerankReply))
@router.post("/v1/v2/rerank", include_in_schema=False)  # Cohere's client with a base URL in /v1
@router.post("/v1/v1/rerank", include_in_schema=False)
async def rerank_documents(request: Request, body: _Documents) -> Response:
    """The path of Cohere, Jina and vLLM. One body has the fields of all of them, so the dialects need not be
    distinguished. Unknown fields are ignored.
    """
    return await _rerank_documents(request, body)


async def _rerank_documents(request: Request, body: RerankBody) -> Response:
    gateway: GatewayState = request.app.state.gateway
    limits = gateway.settings.limits
    task = documents.to_task(body, limits.max_document_chars)
    check_texts(task, "documents", limits)
    caller: Caller = request.state.caller

    async def rank(on_progress: OnProgress | None = None) -> Ranking:
        return await gateway.rerank.rank(task, caller, on_progress)

    def reply(ranking: Ranking) -> RerankReply:
        return documents.to_reply(body, task, ranking, caller.request_id)

    if body.dear is not None and body.dear.stream:
        return await stream_ranking(body, rank, reply, partial(encode_json, request))
    return await _json(request, reply(await rank()))


async def _rerank_texts(request: Request, body: TeiBody) -> Response:
    gateway: GatewayState = request.app.state.gateway
    task = tei.to_task(body)
    check_texts(task, "texts", gateway.settings.limits)
    if body.dear is not None and body.dear.stream:
        raise InvalidRequest("dear.stream: goes with documents, not with texts", param="dear.stream")
    caller: Caller = request.state.caller
    return await _json(request, tei.to_reply(body, await gateway.rerank.rank(task, caller)))


async def _json(request: Request, content: RerankReply | list[TeiResult]) -> Response:
    return Response(await encode_json(request, content), media_type="application/json")
