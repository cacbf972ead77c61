"""Our own rerank options, the same in every dialect."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.types import MAX_IDENTIFIERS, LongDocuments, Scoring, StrategyName


class DearOptions(BaseModel):
    """The object ``dear`` of a rerank body, so that no option clashes with a dialect's field.

    Every field but ``stream`` is a field of RankTask by the same name; null is the same as absent.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    strategy: StrategyName | None = Field(
        None, description='How a list longer than one window is ranked; null: "auto".'
    )
    window_size: Annotated[int, Field(ge=2, le=MAX_IDENTIFIERS)] | None = Field(
        None, description="Passages of one window; null: the server's setting."
    )
    step: Annotated[int, Field(ge=1, le=MAX_IDENTIFIERS)] | None = Field(
        None, description="How far a sliding window moves; at most window_size."
    )
    scoring: Scoring | None = Field(None, description='How a window is decoded; null: "permutation".')
    reasoning: bool | None = Field(
        None, description='The model reasons before it ranks; not with scoring "generate".'
    )
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = Field(
        None, description="Milliseconds after which the answer is what was decided so far."
    )
    passes: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="Ranks are averaged over this many shuffled orders; null: 1."
    )
    instruction: str | None = Field(
        None, description="What the order is for, in words; counts before the dialect's own field for it."
    )
    max_prompt_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Most prompt tokens of all windows; auto fits itself to it. null: the server's limit.",
    )
    long_documents: LongDocuments | None = Field(
        None,
        description='Of documents longer than a prompt shows: their beginning ("cut"), or the best of '
        'overlapping parts ("max_passage"); null: "cut".',
    )
    looks: Annotated[int, Field(ge=1, le=8)] | None = Field(
        None, description="How often joint shows each passage (null: 3), and blitz the head (null: 2)."
    )
    cascade_depth: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="How many of the first stage's best strategy cascade ranks listwise, at most all "
        "documents; null: the server's setting.",
    )
    explain: bool | None = Field(
        None, description="meta.dear.explanation says when each window ran and which documents were cut."
    )
    confidence: bool | None = Field(
        None, description="Say of each rank how sure it is; where the reply has a `meta`."
    )
    stream: bool | None = Field(
        None, description="Send server-sent events, one a rank; where the reply has a `meta`."
    )

    def task_fields(self) -> dict[str, Any]:
        """The options given, as arguments of RankTask."""
        return self.model_dump(exclude_none=True, exclude={"stream"})
