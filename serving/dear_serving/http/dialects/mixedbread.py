"""Mixedbread's dialect: ``input`` instead of documents."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import Field, field_validator
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.dialect import AtLeastZero, Body, Query
from dear_serving.http.dialects.documents import head
from dear_serving.http.dialects.passages import RankFields, each_once, texts_of
from dear_serving.http.dialects.reply import Usage
from dear_serving.types import Ranking, RankTask


class MixedbreadBody(Body):
    """Mixedbread's request."""

    query: Query
    input: Annotated[
        list[str | dict[str, Any]],
        Field(description="Texts or objects.", json_schema_extra={"minItems": 1}),
    ]
    rank_fields: RankFields | None = Field(None, description="What the model reads of objects; null: all.")
    top_k: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    return_input: bool | None = Field(None, description="Whether results include their input.")
    instruction: str | None = Field(None, description="What the order is for, in words; blank: none.")
    rewrite_query: bool | None = Field(None, description="Has no effect.")

    _each_once = field_validator("rank_fields")(each_once)

    @property
    def notes(self) -> list[str]:
        """See Body."""
        return ["rewrite_query has no effect"] if self.rewrite_query else []

    def for_reply(self) -> Self:
        """See Body."""
        return self if self.return_input else self.model_copy(update={"input": []})


class MixedbreadResult(TypedDict):
    """A document's place: best first."""

    index: int
    score: float
    input: NotRequired[Any]
    object: Literal["rank_result"]


class MixedbreadReply(TypedDict):
    """As Mixedbread's."""

    usage: Usage
    model: str
    data: list[MixedbreadResult]
    object: Literal["list"]
    top_k: int
    return_input: bool


def to_task(body: MixedbreadBody, max_chars: int) -> RankTask:
    """The task in a body; see passages for the errors."""
    texts = texts_of(body.input, max_chars, body.rank_fields, "input")
    return body.task(body.query, texts, top_n=body.top_k, instruction=body.instruction)


def to_reply(body: MixedbreadBody, task: RankTask, ranking: Ranking, request_id: str) -> MixedbreadReply:
    """The ranking in Mixedbread's reply."""
    data: list[MixedbreadResult] = []
    for index, score in head(ranking, body.top_k):
        result: MixedbreadResult = {"index": index, "score": score, "object": "rank_result"}
        if body.return_input:
            result["input"] = body.input[index]
        data.append(result)
    usage = ranking.usage
    return {
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "model": ranking.model,
        "data": data,
        "object": "list",
        "top_k": len(data),
        "return_input": bool(body.return_input),
    }
