"""The rerank dialects: Cohere v1 and v2, Jina, vLLM and text-embeddings-inference (TEI)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response

from dear_serving.errors import InvalidRequest, PayloadTooLarge
from dear_serving.protocol import MAX_IDENTIFIERS
from dear_serving.settings import LimitSettings
from dear_serving.types import Order, Ranking, RankTask, Scoring

_DOCUMENTS_PER_SEARCH_UNIT = 100

AtLeastZero = Annotated[int, Field(ge=0)]


class DearOptions(BaseModel):
    """Our own options, under one key so that no dialect clashes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    strategy: Literal["auto", "single", "sliding", "merge2", "joint", "tourrank"] | None = None
    window_size: Annotated[int, Field(ge=2, le=MAX_IDENTIFIERS)] | None = None
    step: Annotated[int, Field(ge=1, le=MAX_IDENTIFIERS)] | None = None
    scoring: Scoring | None = None
    reasoning: bool | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    passes: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None

    def task(
        self,
        query: str,
        passages: list[str],
        *,
        top_n: int | None = None,
        max_passage_tokens: int | None = None,
        priority: int = 0,
    ) -> RankTask:
        """What is asked of a query and its passages.

        Raises:
            InvalidRequest: reasoning with free-text scoring, which has no place for it.
        """
        if self.reasoning and self.scoring == "generate":
            raise InvalidRequest(
                'dear.reasoning: goes with scoring "permutation" or "first_token", not "generate"',
                param="dear.reasoning",
            )
        return RankTask(
            query=query,
            passages=passages,
            top_n=top_n,
            max_passage_tokens=max_passage_tokens,
            deadline_s=self.deadline_ms and self.deadline_ms / 1e3,
            priority=priority,
            scoring=self.scoring or "permutation",
            reasoning=bool(self.reasoning),
        )


class RerankBody(BaseModel):
    """Cohere's, Jina's and vLLM's request in one; unknown fields are ignored, as those APIs do."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    query: str
    documents: list[str | dict[str, Any]]
    top_n: AtLeastZero | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_tokens_per_doc: AtLeastZero | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    priority: Annotated[int, Field(ge=0, le=999)] | None = None
    dear: DearOptions | None = None

    @field_validator("query", mode="before")
    @classmethod
    def _text_object(cls, value: Any) -> Any:
        """Jina also takes ``{"text": ...}``."""
        return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value

    def texts(self) -> list[str]:
        """What is ranked of each document: its text, or the fields the caller names.

        Raises:
            InvalidRequest: a document has no such field, or it is no text.
        """
        fields = self.rank_fields or ["text"]
        return [
            one if isinstance(one, str) else _text_of(one, fields, position)
            for position, one in enumerate(self.documents)
        ]

    @property
    def max_passage_tokens(self) -> int | None:
        """The smaller of the two caps the dialects know; 0 and -1 mean none."""
        caps = [self.max_tokens_per_doc, self.truncate_prompt_tokens]
        return min((cap for cap in caps if cap is not None and cap > 0), default=None)


class TeiBody(BaseModel):
    """TEI's request. ``truncate`` changes nothing: passages are always cut to fit."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    query: str
    texts: list[str]
    raw_scores: bool | None = None
    return_text: bool | None = None
    dear: DearOptions | None = None


def check_limits(query: str, texts: list[str], field: str, limits: LimitSettings) -> None:
    """Refuse what is empty or too much, naming the field (``field`` is ``documents`` or ``texts``).

    Raises:
        InvalidRequest: no documents, or a blank query.
        PayloadTooLarge: a text is over its limit.
    """
    if not texts:
        raise InvalidRequest(f"{field}: at least one is needed", param=field)
    if not query.strip():
        raise InvalidRequest("query: may not be blank", param="query")
    if len(query) > limits.max_query_chars:
        raise PayloadTooLarge(
            f"query: {len(query)} characters are over the limit of {limits.max_query_chars}",
            param="query",
        )
    for position, text in enumerate(texts):
        if len(text) > limits.max_document_chars:
            raise PayloadTooLarge(
                f"{field}.{position}: {len(text)} characters are over the limit of "
                f"{limits.max_document_chars}",
                param=f"{field}.{position}",
            )


def check_count(data: dict[str, Any], field: str, limits: LimitSettings) -> None:
    """Refuse too many documents before each of them is looked at.

    Raises:
        PayloadTooLarge: over ``max_documents``.
    """
    documents = data.get(field)
    if isinstance(documents, list) and len(documents) > limits.max_documents:
        raise PayloadTooLarge(
            f"{field}: {len(documents)} are over the limit of {limits.max_documents}", param=field
        )


def choose_windows(options: DearOptions, window_size: int, step: int) -> tuple[int, int]:
    """Window and step in force: the caller's, else the server's, the step at most the window.

    Raises:
        InvalidRequest: the caller names a step over the window.
    """
    window = options.window_size or window_size
    if options.step is not None and options.step > window:
        raise InvalidRequest(
            f"dear.step: {options.step} is over the window of {window}; passages would be left out",
            param="dear.step",
        )
    return window, options.step or min(step, max(1, window // 2))


def json_reply(content: Any) -> Response:
    """JSON with every character outside ASCII escaped, so that any text can be sent back."""
    return Response(json.dumps(content, separators=(",", ":")), media_type="application/json")


def results_along(
    body: RerankBody, order: Order, scores: Sequence[float], first: int = 0
) -> list[dict[str, Any]]:
    """The reply's results from rank ``first`` on, as far as the caller asks for them."""
    results: list[dict[str, Any]] = []
    for index, score in list(zip(order, scores, strict=True))[: body.top_n or None][first:]:
        result: dict[str, Any] = {"index": index, "relevance_score": score}
        if body.return_documents:
            document = body.documents[index]
            result["document"] = {"text": document} if isinstance(document, str) else document
        results.append(result)
    return results


def rerank_content(
    request_id: str, model: str, revision: str, body: RerankBody, scoring: Scoring, ranking: Ranking
) -> dict[str, Any]:
    """The superset that Cohere's, Jina's and vLLM's clients all read."""
    usage = ranking.usage
    repairs = ranking.repairs
    dear: dict[str, Any] = {
        "strategy": ranking.strategy,
        "strategy_reason": ranking.strategy_reason,
        "scoring": scoring,
        "windows": ranking.windows,
        "rounds": ranking.rounds,
        "repairs": {
            "repeated": repairs.repeated,
            "missing": repairs.missing,
            "out_of_range": repairs.out_of_range,
            "unparseable": repairs.unparseable,
        },
        "score_type": ranking.score_type,
        "revision": revision,
        "queue_ms": round(usage.queue_ms, 3),
        "engine_ms": round(usage.engine_ms, 3),
    }
    if ranking.reasoning:
        dear["reasoning"] = list(ranking.reasoning)
    return {
        "id": request_id,
        "model": model,
        "object": "list",
        "results": results_along(body, ranking.order, ranking.scores),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": -(-len(ranking.order) // _DOCUMENTS_PER_SEARCH_UNIT)},
            "tokens": {
                "input_tokens": usage.prompt_tokens,
                "output_tokens": usage.completion_tokens,
            },
            "warnings": list(ranking.warnings),
            "dear": dear,
        },
    }


def tei_reply(body: TeiBody, ranking: Ranking) -> Response:
    """TEI's bare array, best first."""
    return json_reply(
        [
            {"index": index, "score": score} | ({"text": body.texts[index]} if body.return_text else {})
            for index, score in zip(ranking.order, ranking.scores, strict=True)
        ]
    )


def _text_of(document: dict[str, Any], fields: list[str], position: int) -> str:
    values = []
    for field in fields:
        value = document.get(field)
        if not isinstance(value, str):
            where = f"documents.{position}.{field}"
            raise InvalidRequest(f"{where}: a text is needed", param=where)
        values.append(value if len(fields) == 1 else f"{field}: {value}")
    return "\n".join(values)
