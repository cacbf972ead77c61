"""The dialects with ``documents`` and one reply: Cohere v1 and v2, Jina and vLLM. Others share the body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, WithJsonSchema, field_validator

from dear_serving.http.dialects.dialect import INSTRUCTION, AtLeastZero, Body, Query
from dear_serving.http.dialects.passages import Documents, RankFields, each_once, texts_of, with_metadata
from dear_serving.http.dialects.reply import DearMeta, ExplanationMeta, RerankReply, Result
from dear_serving.types import Explanation, Order, Ranking, RankTask, Sureness

_DOCUMENTS_PER_SEARCH_UNIT = 100
_SCORE_DIGITS = 6


class RerankBody(Body):
    """The request of Cohere, Jina, vLLM and of those that follow them, in one."""

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
    documents: Documents
    top_n: AtLeastZero | None = Field(None, description="Most results; 0 and null: all.")
    return_documents: bool | None = Field(None, description="Whether results include their documents.")
    rank_fields: RankFields | None = Field(
        None, description="The fields of objects that the model reads, each once; null: all."
    )
    instruction: str | None = Field(None, description=INSTRUCTION)
    instruct: str | None = Field(None, description="As instruction.")
    rerank_instruction: str | None = Field(None, description="As instruction.")
    metadata: list[str] | None = Field(None, description="A text a document, read after it.")
    max_tokens_per_doc: AtLeastZero | None = Field(
        None, description="Every document is cut to this many tokens; 0: no cap."
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="As max_tokens_per_doc; the smaller one counts. 0 and -1: no cap."
    )
    max_tokens_per_query: AtLeastZero | None = Field(None, description="Has no effect.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Only its `instruction` has an effect, before the field of that name."
    )
    priority: Annotated[int, Field(ge=0, le=999)] | None = Field(
        None, description="0 is highest. Of a tenant's waiting windows, the lowest runs first."
    )

    @field_validator("query", mode="before")
    @classmethod
    def _text_object(cls, value: Any) -> Any:
        """Jina also takes ``{"text": ...}``."""
        return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value

    _each_once = field_validator("rank_fields")(each_once)

    @field_validator("chat_template_kwargs")
    @classmethod
    def _instruction_is_a_text(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values and not isinstance(values.get("instruction") or "", str):
            raise ValueError("its instruction has to be a text")
        return values

    @property
    def notes(self) -> list[str]:
        """See Body."""
        notes = [
            f"chat_template_kwargs.{name[:64]} has no effect"
            for name in list(self.chat_template_kwargs or ())[:8]
            if name != "instruction"
        ]
        if self.max_tokens_per_query:
            notes.append("max_tokens_per_query has no effect: a query may take a quarter of the prompt")
        if len({one.strip() for one in self._instructions}) > 1:
            notes.append("several instructions differ, and one of them counts")
        return notes

    @property
    def asked(self) -> str | None:
        """The instruction, by whichever name."""
        return next(iter(self._instructions), None)

    @property
    def _instructions(self) -> list[str]:
        by_name = (
            self.dear.instruction if self.dear else None,
            (self.chat_template_kwargs or {}).get("instruction"),
            self.instruction,
            self.rerank_instruction,
            self.instruct,
        )
        return [one for one in by_name if one]

    @property
    def max_passage_tokens(self) -> int | None:
        """The smaller of the two caps the dialects know; 0 and -1 mean none."""
        caps = [self.max_tokens_per_doc, self.truncate_prompt_tokens]
        return min((cap for cap in caps if cap is not None and cap > 0), default=None)

    def for_reply(self) -> Self:
        """See Body."""
        unread: dict[str, Any] = {} if self.return_documents else {"documents": []}
        return self.model_copy(update=unread | {"metadata": None})


def to_task(body: RerankBody, max_chars: int) -> RankTask:
    """The task in a body; see passages for the errors."""
    texts = texts_of(body.documents, max_chars, body.rank_fields)
    return body.task(
        body.query,
        with_metadata(texts, body.metadata),
        top_n=body.top_n,
        max_passage_tokens=body.max_passage_tokens,
        priority=body.priority or 0,
        instruction=body.asked,
    )


def head(ranking: Ranking, top_n: int | None) -> list[tuple[int, float]]:
    """Index and score of as many results as the caller asks for, best first."""
    return list(zip(ranking.order, ranking.scores, strict=True))[: top_n or None]


def search_units(ranking: Ranking) -> int:
    """As Cohere bills: one for each hundred documents."""
    return -(-len(ranking.order) // _DOCUMENTS_PER_SEARCH_UNIT)


def results_along(
    body: RerankBody,
    order: Order,
    scores: Sequence[float],
    first: int = 0,
    sureness: Sequence[Sureness] = (),
) -> list[Result]:
    """The reply's results from rank ``first`` on, as far as the caller asks for them."""
    results: list[Result] = []
    ranked = list(zip(order, scores, strict=True))[: body.top_n or None]
    for rank, (index, score) in enumerate(ranked[first:], first):
        result: Result = {"index": index, "relevance_score": score}
        if rank < len(sureness):
            result["confidence"] = sureness[rank].confidence
            result["certified"] = sureness[rank].certified
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
    if ranking.first_stage:
        dear["ranks"]["pointwise"] = coverage.pointwise
        dear["first_stage"] = ranking.first_stage
        dear["scored"] = ranking.scored
    if ranking.sureness:
        sure = ranking.sureness[: body.top_n or None]
        known = [one.confidence for one in sure if one.confidence is not None]
        dear["confidence"] = round(sum(known) / len(known), 4) if known else None
        dear["certified"] = next((rank for rank, one in enumerate(sure) if not one.certified), len(sure))
    if ranking.parts is not None:
        dear["parts"] = ranking.parts
    if ranking.reasoning:
        dear["reasoning"] = list(ranking.reasoning)
    if ranking.instruction:
        dear["instruction"] = ranking.instruction
    results = results_along(body, ranking.order, ranking.scores, sureness=ranking.sureness)
    for result, score in zip(results, ranking.first_scores, strict=False):
        if score is not None:
            result["dear"] = {"first_stage_score": round(score, _SCORE_DIGITS)}
    if ranking.explanation:
        dear["explanation"] = _explained(ranking.explanation)
    return {
        "id": request_id,
        "model": ranking.model,
        "object": "list",
        "results": results,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": search_units(ranking)},
            "tokens": {
                "input_tokens": usage.prompt_tokens,
                "output_tokens": usage.completion_tokens,
            },
            "warnings": list(ranking.warnings),
            "dear": dear,
        },
    }


def _explained(explanation: Explanation) -> ExplanationMeta:
    return {
        "total_ms": round(explanation.total_ms, 3),
        "windows": [
            {
                "round": one.round,
                "start_ms": round(one.start_ms, 3),
                "end_ms": round(one.end_ms, 3),
                "queue_ms": round(one.queue_ms, 3),
                "documents": list(one.passages),
            }
            for one in explanation.windows
        ],
        "cut_documents": list(explanation.cut),
    }
