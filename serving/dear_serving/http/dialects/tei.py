"""The dialect of text-embeddings-inference (TEI): ``texts`` in, a bare array out."""

from __future__ import annotations

from typing import NotRequired, Self

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.dialect import Body, Query, Texts
from dear_serving.types import Ranking, RankTask


class TeiBody(Body):
    """TEI's request. Passages are always cut to fit, whatever ``truncate`` says."""

    query: Query
    texts: Texts
    documents: None = Field(None, description="Absent or null; a body with documents is of another dialect.")
    raw_scores: bool | None = Field(None, description="Has no effect.")
    truncate: bool | None = Field(None, description="Has no effect.")
    truncation_direction: str | None = Field(None, description="Has no effect.")
    return_text: bool | None = Field(None, description="Whether results include their texts.")

    @property
    def notes(self) -> list[str]:
        """See Body."""
        notes = []
        if self.raw_scores:
            notes.append("raw_scores has no effect: the scores of a listwise model are as they are")
        if (self.truncation_direction or "Right").lower() != "right":
            notes.append("truncation_direction has no effect: texts are cut at their end")
        return notes

    def for_reply(self) -> Self:
        """See Body."""
        return self if self.return_text else self.model_copy(update={"texts": []})


class TeiResult(TypedDict):
    """A text's place: the array is best first."""

    index: int
    score: float
    text: NotRequired[str]


def to_task(body: TeiBody, max_chars: int) -> RankTask:
    """The task in a body."""
    return body.task(body.query, body.texts)


def to_reply(body: TeiBody, task: RankTask, ranking: Ranking, request_id: str) -> list[TeiResult]:
    """TEI's array, best first."""
    results: list[TeiResult] = []
    for index, score in zip(ranking.order, ranking.scores, strict=True):
        result: TeiResult = {"index": index, "score": score}
        if body.return_text:
            result["text"] = body.texts[index]
        results.append(result)
    return results
