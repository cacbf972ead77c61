"""The dialect of text-embeddings-inference (TEI): ``texts`` in, a bare array out."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from dear_serving.http.dialects.options import DearOptions
from dear_serving.types import Ranking, RankTask


class TeiBody(BaseModel):
    """TEI's request. ``truncate`` changes nothing: passages are always cut to fit."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    query: str
    texts: list[str]
    raw_scores: bool | None = None
    return_text: bool | None = None
    dear: DearOptions | None = None


def to_task(body: TeiBody) -> RankTask:
    """What the body asks for."""
    options = body.dear.task_fields() if body.dear is not None else {}
    return RankTask(query=body.query, passages=body.texts, model=body.model, **options)


def to_reply(body: TeiBody, ranking: Ranking) -> list[dict[str, Any]]:
    """TEI's array, best first."""
    return [
        {"index": index, "score": score} | ({"text": body.texts[index]} if body.return_text else {})
        for index, score in zip(ranking.order, ranking.scores, strict=True)
    ]
