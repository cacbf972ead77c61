"""Figures that others published, and whether a run of ours may be held against them."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Published:
    """A published figure.

    Args:
        system: whose it is.
        measures: of which measure, or of the mean of which measures.
        value: times 100.
        source: where it stands.
        comparable: whether a run of the preset that it stands in measures the same thing.
        why: what is the same, or what is not.
        of_first_stage: whether it is the first stage's and not a reranker's.
    """

    system: str
    measures: Annotated[tuple[str, ...], Field(min_length=1)]
    value: Annotated[float, Field(ge=0, le=100)]
    source: str
    comparable: bool
    why: str
    of_first_stage: bool = False
