"""The dialects with ``documents``: Cohere v1 and v2, Jina and vLLM. One reply serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from dear_serving.errors import InvalidRequest, PayloadTooLarge
from dear_serving.http.dialects.options import DearOptions
from dear_serving.http.dialects.reply import DearMeta, RerankReply, Result
from dear_serving.types import Order, Ranking, RankTask

_DOCUMENTS_PER_SEARCH_UNIT = 100
_MOST_RANK_FIELDS, _MOST_FIELD_CHARS = 64, 256

AtLeastZero = Annotated[int, Field(ge=0)]
Query = Annotated[str, Field(description="The search query.", json_schema_extra={"pattern": r"\S"})]
MODEL = "The base model's id or an adapter's name; absent: the server's default."


class RerankBody(BaseModel):
    """The request of Cohere, Jina and vLLM in one; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = Field(None, description=MODEL)
    query: Annotated[
        Query,
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": r"\S"},
                    {
                        "type": "object",
                        "properties": {"text": {"type": "string", "pattern": r"\S"}},
                        "required": ["text"],
                        "additionalProperties": False,
                    },
                ]
            }
        ),
    ]
    documents: list[str | dict[str, Any]] = Field(
        description="Texts, or objects with the `rank_fields`.", json_schema_extra={"minItems": 1}
    )
    top_n: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    return_documents: bool | None = Field(None, description="Whether results include their documents.")
    rank_fields: (
        Annotated[
            list[Annotated[str, Field(max_length=_MOST_FIELD_CHARS)]], Field(max_length=_MOST_RANK_FIELDS)
        ]
        | None
    ) = Field(
        None,
        description='The fields of objects that the model reads, each once; null: "text".',
    )
    max_tokens_per_doc: AtLeastZero | None = Field(
        None, description="Every document is cut to this many tokens; 0: no cap."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="As max_tokens_per_doc; the smaller one counts. 0 and -1: no cap."
    )
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(
        None, description="0 is highest. Of a tenant's waiting windows, the lowest runs first."
    )
    dear: DearOptions | None = None

    @field_validator("query", mode="before")
    @classmethod
    def _text_object(cls, value: Any) -> Any:
        """Jina also takes ``{"text": ...}``."""
        return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value

    @field_validator("rank_fields")
    @classmethod
    def _each_once(cls, fields: list[str] | None) -> list[str] | None:
        if fields and len(set(fields)) < len(fields):
            raise ValueError("a field is named twice")
        return fields

    @property
    def max_passage_tokens(self) -> int | None:
        """The smaller of the two caps the dialects know; 0 and -1 mean none."""
        caps = [self.max_tokens_per_doc, self.truncate_prompt_tokens]
        return min((cap for cap in caps if cap is not None and cap > 0), default=None)


def ranked_fields(body: RerankBody) -> RerankBody:
    """The body without the documents' other fields, which only the reply could need."""
    fields = body.rank_fields or ["text"]
    documents: list[str | dict[str, Any]] = [
        one if isinstance(one, str) else {name: one[name] for name in fields if name in one}
        for one in body.documents
    ]
    return body.model_copy(update={"documents": documents})


def to_task(body: RerankBody, max_chars: int) -> RankTask:
    """The task in a body.

    Raises:
        InvalidRequest: a document lacks a field that is ranked, or it is no text.
        PayloadTooLarge: a document's fields have more than ``max_chars`` characters together.
    """
    fields = body.rank_fields or ["text"]
    options = body.dear.task_fields() if body.dear is not None else {}
    return RankTask(
        query=body.query,
        passages=[
            one if isinstance(one, str) else _text_of(one, fields, position, max_chars)
            for position, one in enumerate(body.documents)
        ],
        model=body.model,
        top_n=body.top_n,
        max_passage_tokens=body.max_passage_tokens,
        priority=body.priority or 0,
        **options,
    )


def results_along(body: RerankBody, order: Order, scores: Sequence[float], first: int = 0) -> list[Result]:
    """The reply's results from rank ``first`` on, as far as the caller asks for them."""
    results: list[Result] = []
    for index, score in list(zip(order, scores, strict=True))[: body.top_n or None][first:]:
        result: Result = {"index": index, "relevance_score": score}
        if body.return_documents:
            document = body.documents[index]
            result["document"] = {"text": document} if isinstance(document, str) else document
        results.append(result)
    return results


def to_reply(body: RerankBody, task: RankTask, ranking: Ranking, request_id: str) -> RerankReply:
    """The ranking as one reply."""
    usage = ranking.usage
    repairs = ranking.repairs
    coverage = ranking.coverage
    dear: DearMeta = {
        "strategy": ranking.strategy,
        "strategy_reason": ranking.strategy_reason,
        "scoring": task.scoring,
        "ranks": {
            "listwise": coverage.listwise,
            "one_pass": coverage.one_pass,
            "unread": coverage.unread,
        },
        "windows": ranking.windows,
        "rounds": ranking.rounds,
        "repairs": {
            "repeated": repairs.repeated,
            "missing": repairs.missing,
            "out_of_range": repairs.out_of_range,
            "unparseable": repairs.unparseable,
        },
        "score_type": ranking.score_type,
        "revision": ranking.revision,
        "queue_ms": round(usage.queue_ms, 3),
        "engine_ms": round(usage.engine_ms, 3),
        "passes": usage.passes,
        "drafts": usage.drafted,
        "accepted_drafts": usage.accepted,
    }
    if ranking.parts is not None:
        dear["parts"] = ranking.parts
    if ranking.reasoning:
        dear["reasoning"] = list(ranking.reasoning)
    return {
        "id": request_id,
        "model": ranking.model,
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


def _text_of(document: dict[str, Any], fields: list[str], position: int, max_chars: int) -> str:
    values: list[str] = []
    for field in fields:
        value = document.get(field)
        if not isinstance(value, str):
            where = f"documents.{position}.{field}"
            raise InvalidRequest(f"{where}: a text is needed", param=where)
        values.append(value)
    if len(fields) == 1:
        return values[0]
    # Checked before they are joined: the joined text may be much longer than the document.
    chars = sum(map(len, fields)) + sum(map(len, values)) + 3 * len(fields) - 1
    if chars > max_chars:
        where = f"documents.{position}"
        raise PayloadTooLarge(
            f"{where}: its rank_fields have {chars} characters, over the limit of {max_chars}", param=where
        )
    return "\n".join(f"{field}: {value}" for field, value in zip(fields, values, strict=True))
