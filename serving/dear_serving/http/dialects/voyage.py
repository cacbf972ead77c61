"""Voyage AI's dialect: ``top_k`` instead of ``top_n``, and ``data`` instead of ``results``."""

from __future__ import annotations

from typing import Literal, NotRequired, Self

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.dialect import AtLeastZero, Body, Query, Texts
from dear_serving.http.dialects.documents import head
from dear_serving.http.dialects.hosted import TotalTokens
from dear_serving.types import Ranking, RankTask


class VoyageBody(Body):
    """Voyage's request."""

    query: Query
    documents: Texts
    top_k: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    return_documents: bool | None = Field(None, description="Whether results include their documents.")
    truncation: bool | None = Field(None, description="Documents are cut to fit, whatever it says.")

    @property
    def notes(self) -> list[str]:
        """See Body."""
        refuses = self.truncation is False
        return ["truncation false has no effect: documents are cut to fit"] if refuses else []

    def for_reply(self) -> Self:
        """See Body."""
        return self if self.return_documents else self.model_copy(update={"documents": []})


class VoyageResult(TypedDict):
    """A document's place: best first."""

    index: int
    relevance_score: float
    document: NotRequired[str]


class VoyageReply(TypedDict):
    """As Voyage's."""

    object: Literal["list"]
    data: list[VoyageResult]
    model: str
    usage: TotalTokens


def to_task(body: VoyageBody, max_chars: int) -> RankTask:
    """The task in a body."""
    return body.task(body.query, body.documents, top_n=body.top_k)


def to_reply(body: VoyageBody, task: RankTask, ranking: Ranking, request_id: str) -> VoyageReply:
    """The ranking in Voyage's reply."""
    data: list[VoyageResult] = []
    for index, score in head(ranking, body.top_k):
        result: VoyageResult = {"index": index, "relevance_score": score}
        if body.return_documents:
            result["document"] = body.documents[index]
        data.append(result)
    return {
        "object": "list",
        "data": data,
        "model": ranking.model,
        "usage": {"total_tokens": ranking.usage.total_tokens},
    }
