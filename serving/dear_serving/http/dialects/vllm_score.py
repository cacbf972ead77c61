"""vLLM's score API: a query and documents by one of four pairs of names; scores in the caller's order."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.errors import InvalidRequest
from dear_serving.http.dialects.dialect import INSTRUCTION, AtLeastZero, Body
from dear_serving.http.dialects.reply import Usage
from dear_serving.types import Ranking, RankTask

PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
Side = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[str], Tag("Texts")],
    Discriminator(lambda side: "Texts" if isinstance(side, list) else "Text"),
]


class ScoreBody(Body):
    """vLLM's request. A listwise score compares the documents of one query: there is one."""

    queries: Side | None = None
    documents: Side | None = None
    items: Side | None = None
    data_1: Side | None = None
    data_2: Side | None = None
    text_1: Side | None = None
    text_2: Side | None = None
    instruction: str | None = Field(None, description=INSTRUCTION)
    max_tokens_per_doc: AtLeastZero | None = Field(
        None, description="Every document is cut to this; 0: no cap."
    )
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(None, description="0 is highest.")

    @model_validator(mode="after")
    def _is_a_pair(self) -> Self:
        if not any(self._has(pair) for pair in PAIRS):
            raise InvalidRequest(
                "queries: a query and documents are needed, as queries and documents, queries and items, "
                "data_1 and data_2, or text_1 and text_2",
                param="queries",
            )
        return self

    def _has(self, pair: tuple[str, str]) -> bool:
        return all(getattr(self, name) is not None for name in pair)

    @property
    def sides(self) -> tuple[str, list[str], list[str]]:
        """The name of the query's field, the queries and the documents."""
        first, second = next(pair for pair in PAIRS if self._has(pair))
        queries, documents = (
            [side] if isinstance(side := getattr(self, name), str) else side for name in (first, second)
        )
        return first, queries, documents

    @property
    def notes(self) -> list[str]:
        """See Body."""
        used = next(pair for pair in PAIRS if self._has(pair))
        names = {name for pair in PAIRS for name in pair}
        unread = sorted(name for name in names.difference(used) if getattr(self, name) is not None)
        return [f"{used[0]} and {used[1]} count, not {', '.join(unread)}"] if unread else []

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={name: None for pair in PAIRS for name in pair})


class Score(TypedDict):
    """A document's score."""

    index: int
    object: Literal["score"]
    score: float


class ScoreReply(TypedDict):
    """As vLLM's: in the order of the documents."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: Usage


def to_task(body: ScoreBody, max_chars: int) -> RankTask:
    """The task in a body.

    Raises:
        InvalidRequest: several queries that differ, or another number of them than of documents.
    """
    name, queries, documents = body.sides
    if len(queries) > 1 and len(queries) != len(documents):
        raise InvalidRequest(
            f"{name}: one is needed, or as many as documents ({len(documents)}), not {len(queries)}",
            param=name,
        )
    if len(set(queries)) != 1:
        raise InvalidRequest(
            f"{name}: one query is needed, since a listwise score compares the documents of one query",
            param=name,
        )
    options: dict[str, Any] = {"priority": body.priority or 0, "instruction": body.instruction}
    return body.task(queries[0], documents, max_passage_tokens=body.max_tokens_per_doc or None, **options)


def to_reply(body: ScoreBody, task: RankTask, ranking: Ranking, request_id: str) -> ScoreReply:
    """The ranking in vLLM's reply."""
    usage = ranking.usage
    return {
        "id": request_id,
        "object": "list",
        "created": int(time.time()),
        "model": ranking.model,
        "data": [
            {"index": index, "object": "score", "score": score}
            for index, score in sorted(zip(ranking.order, ranking.scores, strict=True))
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
