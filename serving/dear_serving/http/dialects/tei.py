"""The dialect of text-embeddings-inference (TEI): ``texts`` in, a bare array out."""

from __future__ import annotations

from typing import NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.documents import MODEL, Query
from dear_serving.http.dialects.options import DearOptions
from dear_serving.types import Ranking, RankTask


class TeiBody(BaseModel):
    """TEI's request. ``truncate`` changes nothing: passages are always cut to fit."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = Field(None, description=MODEL)
    query: Query
    texts: list[str] = Field(json_schema_extra={"minItems": 1})
    documents: None = Field(None, description="Absent or null; a body with documents is of another dialect.")
    raw_scores: bool | None = Field(None, description="Has no effect.")
    return_text: bool | None = Field(None, description="Whether results include their texts.")
    dear: DearOptions | None = None


class TeiResult(TypedDict):
    """A text's place: the array is best first."""

    index: int
    score: float
    text: NotRequired[str]


def to_task(body: TeiBody) -> RankTask:
    """The task in a body."""
    options = body.dear.task_fields() if body.dear is not None else {}
    return RankTask(query=body.query, passages=body.texts, model=body.model, **options)


def to_reply(body: TeiBody, ranking: Ranking) -> list[TeiResult]:
    """TEI's array, best first."""
    results: list[TeiResult] = []
    for index, score in zip(ranking.order, ranking.scores, strict=True):
        result: TeiResult = {"index": index, "score": score}
        if body.return_text:
            result["text"] = body.texts[index]
        results.append(result)
    return results
