"""ZeroEntropy's dialect: Cohere's with a reply that counts bytes and seconds."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.dialect import AtLeastZero, Body, Query, Texts
from dear_serving.http.dialects.documents import head
from dear_serving.http.dialects.hosted import Place
from dear_serving.types import Ranking, RankTask

Latency = Literal["fast", "slow"]


class ZeroEntropyBody(Body):
    """ZeroEntropy's request."""

    query: Query
    documents: Texts
    top_n: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    latency: Latency | None = Field(None, description="Only comes back.")

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={"documents": []})


class ZeroEntropyReply(TypedDict):
    """As ZeroEntropy's."""

    results: list[Place]
    actual_latency_mode: Latency
    e2e_latency: float
    inference_latency: float
    total_bytes: int
    total_tokens: int


def to_task(body: ZeroEntropyBody, max_chars: int) -> RankTask:
    """The task in a body."""
    return body.task(body.query, body.documents, top_n=body.top_n)


def to_reply(body: ZeroEntropyBody, task: RankTask, ranking: Ranking, request_id: str) -> ZeroEntropyReply:
    """The ranking in ZeroEntropy's reply; bytes are those of query and documents."""
    usage = ranking.usage
    return {
        "results": [{"index": index, "relevance_score": score} for index, score in head(ranking, body.top_n)],
        "actual_latency_mode": body.latency or "fast",
        "e2e_latency": (usage.queue_ms + usage.engine_ms) / 1e3,
        "inference_latency": usage.engine_ms / 1e3,
        "total_bytes": len(task.query.encode()) + sum(len(text.encode()) for text in task.passages),
        "total_tokens": usage.total_tokens,
    }
