"""The dialect of Google's ranking API (Vertex AI Search)."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.errors import InvalidRequest, RequestError
from dear_serving.http.dialects.dialect import AtLeastZero, Body, Query
from dear_serving.http.dialects.documents import head
from dear_serving.http.dialects.passages import texts_of
from dear_serving.types import Ranking, RankTask


class VertexRecord(BaseModel):
    """A document with an id of the caller's."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str | None = None
    title: str | None = None
    content: str | None = None


class VertexBody(Body):
    """Google's request."""

    query: Query
    records: Annotated[list[VertexRecord], Field(json_schema_extra={"minItems": 1})]
    topN: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")  # noqa: N815
    ignoreRecordDetailsInResponse: bool | None = Field(  # noqa: N815
        None, description="Whether results have ids and scores alone."
    )


class VertexResult(TypedDict):
    """A record's place: best first."""

    id: NotRequired[str]
    title: NotRequired[str]
    content: NotRequired[str]
    score: float


_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "CANCELLED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's names of a status; the rest of 4xx is INVALID_ARGUMENT, of 5xx INTERNAL."""


class VertexReply(TypedDict):
    """As Google's."""

    records: list[VertexResult]


def to_task(body: VertexBody, max_chars: int) -> RankTask:
    """The task in a body: a record's content, with its title as YAML if it has one.

    Raises:
        InvalidRequest: a record has neither.
    """
    for position, one in enumerate(body.records):
        if one.title is None and one.content is None:
            where = f"records.{position}"
            raise InvalidRequest(f"{where}: title or content is needed", param=where)
    documents = [
        one.content or "" if one.title is None else {"title": one.title, "content": one.content or ""}
        for one in body.records
    ]
    return body.task(body.query, texts_of(documents, max_chars, name="records"), top_n=body.topN)


def to_reply(body: VertexBody, task: RankTask, ranking: Ranking, request_id: str) -> VertexReply:
    """The ranking in Google's reply."""
    records: list[VertexResult] = []
    for index, score in head(ranking, body.topN):
        record = body.records[index]
        result: VertexResult = {"score": score}
        if record.id is not None:
            result["id"] = record.id
        if not body.ignoreRecordDetailsInResponse:
            if record.title is not None:
                result["title"] = record.title
            if record.content is not None:
                result["content"] = record.content
        records.append(result)
    return {"records": records}


def error(error: RequestError) -> dict[str, Any]:
    """The error as Google's clients read it: the status as a number, and its name."""
    name = _STATUS.get(error.status, "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
    ours = {"message": error.message, "type": error.type, "param": error.param}
    return {"error": {**ours, "code": error.status, "status": name}}
