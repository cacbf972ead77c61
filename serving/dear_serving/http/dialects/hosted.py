"""The hosted rerankers with Cohere's request and a smaller reply: Contextual AI, Together, DashScope. SGLang
answers that request with a bare array.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, Self

from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.errors import RequestError
from dear_serving.http.dialects.documents import RerankBody, head, results_along
from dear_serving.http.dialects.reply import Result, Usage
from dear_serving.types import Ranking, RankTask


class Place(TypedDict):
    """A document's place: results are best first."""

    index: int
    relevance_score: float


class ContextualReply(TypedDict):
    """As Contextual AI's."""

    results: list[Place]


class TotalTokens(TypedDict):
    """Tokens of all windows."""

    total_tokens: int


_DASHSCOPE_CODES = {
    401: "InvalidApiKey",
    403: "AccessDenied",
    404: "ModelNotFound",
    429: "Throttling",
    503: "ServiceUnavailable",
    504: "RequestTimeOut",
}
"""DashScope's names of a status; the rest of 4xx is InvalidParameter, of 5xx InternalError."""


class DashScopeReply(TypedDict):
    """As DashScope's with its compatible API."""

    id: str
    object: Literal["list"]
    model: str
    results: list[Place]
    usage: TotalTokens


class TogetherReply(TypedDict):
    """As Together's."""

    id: str
    object: Literal["rerank"]
    model: str
    results: list[Result]
    usage: Usage


class SglangResult(TypedDict):
    """As SGLang's: the array is best first."""

    score: float
    index: int
    document: NotRequired[Any]
    meta_info: dict[str, Any]


class SglangBody(RerankBody):
    """SGLang's request: documents come back unless it says no."""

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={"documents": []}) if self.return_documents is False else self


def _places(body: RerankBody, ranking: Ranking) -> list[Place]:
    return [{"index": index, "relevance_score": score} for index, score in head(ranking, body.top_n)]


def to_contextual(body: RerankBody, task: RankTask, ranking: Ranking, request_id: str) -> ContextualReply:
    """The ranking in Contextual AI's reply."""
    return {"results": _places(body, ranking)}


def to_dashscope(body: RerankBody, task: RankTask, ranking: Ranking, request_id: str) -> DashScopeReply:
    """The ranking in DashScope's reply."""
    return {
        "id": request_id,
        "object": "list",
        "model": ranking.model,
        "results": _places(body, ranking),
        "usage": {"total_tokens": ranking.usage.total_tokens},
    }


def dashscope_error(error: RequestError) -> dict[str, Any]:
    """What DashScope's errors have beside ours: a code at the top."""
    unavailable = "InternalError" if error.status >= 500 else "InvalidParameter"
    return {"code": _DASHSCOPE_CODES.get(error.status, unavailable)}


def to_together(body: RerankBody, task: RankTask, ranking: Ranking, request_id: str) -> TogetherReply:
    """The ranking in Together's reply."""
    usage = ranking.usage
    return {
        "id": request_id,
        "object": "rerank",
        "model": ranking.model,
        "results": results_along(body, ranking.order, ranking.scores),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }


def to_sglang(body: SglangBody, task: RankTask, ranking: Ranking, request_id: str) -> list[SglangResult]:
    """The ranking in SGLang's array."""
    meta = {"id": request_id, "prompt_tokens": ranking.usage.prompt_tokens}
    results: list[SglangResult] = []
    for index, score in head(ranking, body.top_n):
        result: SglangResult = {"score": score, "index": index, "meta_info": meta}
        if body.return_documents is not False:
            result["document"] = body.documents[index]
        results.append(result)
    return results
