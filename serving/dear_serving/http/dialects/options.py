"""Our own rerank options, the same in every dialect."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.types import MAX_IDENTIFIERS, Scoring, StrategyName


class DearOptions(BaseModel):
    """The object ``dear`` of a rerank body, so that no option clashes with a dialect's field.

    Every field but ``stream`` is a field of RankTask by the same name; null is the same as absent.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    strategy: StrategyName | None = None
    window_size: Annotated[int, Field(ge=2, le=MAX_IDENTIFIERS)] | None = None
    step: Annotated[int, Field(ge=1, le=MAX_IDENTIFIERS)] | None = None
    scoring: Scoring | None = None
    reasoning: bool | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    passes: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None

    def task_fields(self) -> dict[str, Any]:
        """The options given, as arguments of RankTask."""
        return self.model_dump(exclude_none=True, exclude={"stream"})
