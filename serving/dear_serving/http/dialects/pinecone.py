"""Pinecone's dialect: documents are objects, and the key is in the header ``Api-Key``."""

from __future__ import annotations

from typing import Any, NotRequired, Self

from pydantic import Field, field_validator
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.errors import RequestError
from dear_serving.http.dialects.dialect import AtLeastZero, Body, Query
from dear_serving.http.dialects.documents import head, search_units
from dear_serving.http.dialects.passages import Documents, RankFields, each_once, texts_of
from dear_serving.types import Ranking, RankTask


class PineconeBody(Body):
    """Pinecone's request."""

    query: Query
    documents: Documents
    top_n: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    return_documents: bool | None = Field(None, description="Whether results include them; null: true.")
    rank_fields: RankFields | None = Field(None, description='What the model reads; null: "text".')
    parameters: dict[str, Any] | None = Field(None, description="Has no effect: documents are cut to fit.")

    _each_once = field_validator("rank_fields")(each_once)

    @property
    def notes(self) -> list[str]:
        """See Body."""
        unread = {name: value for name, value in (self.parameters or {}).items() if name != "truncate"}
        names = [f"parameters.{name[:64]} has no effect" for name in list(unread)[:8]]
        if (self.parameters or {}).get("truncate", "END") != "END":
            names.append("parameters.truncate has no effect: documents are cut to fit")
        return names

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={"documents": []}) if self.return_documents is False else self


class PineconeResult(TypedDict):
    """A document's place: best first."""

    index: int
    score: float
    document: NotRequired[dict[str, Any]]


class RerankUnits(TypedDict):
    """As Pinecone bills: one for each hundred documents."""

    rerank_units: int


class PineconeReply(TypedDict):
    """As Pinecone's."""

    model: str
    data: list[PineconeResult]
    usage: RerankUnits


def to_task(body: PineconeBody, max_chars: int) -> RankTask:
    """The task in a body; see passages for the errors."""
    texts = texts_of(body.documents, max_chars, body.rank_fields or ["text"])
    return body.task(body.query, texts, top_n=body.top_n)


def to_reply(body: PineconeBody, task: RankTask, ranking: Ranking, request_id: str) -> PineconeReply:
    """The ranking in Pinecone's reply."""
    data: list[PineconeResult] = []
    for index, score in head(ranking, body.top_n):
        result: PineconeResult = {"index": index, "score": score}
        if body.return_documents is not False:
            document = body.documents[index]
            result["document"] = {"text": document} if isinstance(document, str) else document
        data.append(result)
    return {"model": ranking.model, "data": data, "usage": {"rerank_units": search_units(ranking)}}


def error(error: RequestError) -> dict[str, Any]:
    """What Pinecone's errors have beside ours."""
    return {"status": error.status}
