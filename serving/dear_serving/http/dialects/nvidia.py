"""The dialect of NVIDIA's NIM for reranking: ``passages`` in, ``logit`` out."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic reads typing's from Python 3.12 on

from dear_serving.http.dialects.dialect import Body
from dear_serving.types import Ranking, RankTask

_LEAST = 1e-9


class NimText(BaseModel):
    """A text in an object; images are not read."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str


class NimBody(Body):
    """NIM's request."""

    query: NimText
    passages: Annotated[list[NimText], Field(json_schema_extra={"minItems": 1})]
    truncate: Literal["NONE", "END"] | None = Field(None, description="Passages are cut at their end anyway.")

    @property
    def notes(self) -> list[str]:
        """See Body."""
        return ["truncate NONE has no effect: passages are cut to fit"] if self.truncate == "NONE" else []

    def for_reply(self) -> Self:
        """See Body."""
        return self.model_copy(update={"passages": []})


class NimResult(TypedDict):
    """A passage's place: best first."""

    index: int
    logit: float


class NimReply(TypedDict):
    """As NIM's."""

    rankings: list[NimResult]


def to_task(body: NimBody, max_chars: int) -> RankTask:
    """The task in a body."""
    return body.task(body.query.text, [one.text for one in body.passages])


def to_reply(body: NimBody, task: RankTask, ranking: Ranking, request_id: str) -> NimReply:
    """The ranking in NIM's reply; a logit is the log-odds of the score."""
    scores = [min(max(score, _LEAST), 1 - _LEAST) for score in ranking.scores]
    return {
        "rankings": [
            {"index": index, "logit": math.log(score / (1 - score))}
            for index, score in zip(ranking.order, scores, strict=True)
        ]
    }
