"""Evaluations by name: which files, which settings, and what others published about them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from dear_client.options import Strategy
from dear_tools.evaluation.sources import Source
from dear_tools.exits import ToolError

CARD = "card"
"""The name of all presets together: the table of the model's card, as far as files are there."""


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


class Windows(BaseModel):
    """How lists over one window are ranked, where the command line does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    window_size: int
    step: int


class Preset(BaseModel):
    """A named evaluation.

    Args:
        title: the collection.
        candidates: file names that RankGPT or rank_llm give it, below ``--data``; the first that is there.
        qrels: likewise.
        published_in: where such files are published.
        first_stage: whose order the candidates are in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    candidates: tuple[str, ...]
    qrels: tuple[str, ...]
    published_in: str
    first_stage: str
    relevant_from: int
    depth: int
    windows: Windows
    published: tuple[Published, ...] = ()

    def source(self, data: Path) -> Source | None:
        """Its files in a folder; None where one of them is not there."""
        candidates = next((data / name for name in self.candidates if (data / name).is_file()), None)
        qrels = next((data / name for name in self.qrels if (data / name).is_file()), None)
        return None if candidates is None or qrels is None else Source(candidates=candidates, qrels=qrels)

    def missing(self, data: Path) -> str:
        """Which files a folder lacks; only the first of each one's names."""
        kinds = (self.candidates, self.qrels)
        lost = [names[0] for names in kinds if not any((data / name).is_file() for name in names)]
        return f"{data} has no {' and no '.join(lost)}"


@cache
def presets() -> dict[str, Preset]:
    """All presets by name, from presets.yaml beside this file."""
    text = (files("dear_tools.evaluation") / "presets.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    del found["shared"]
    return TypeAdapter(dict[str, Preset]).validate_python(found)


def chosen(name: str) -> dict[str, Preset]:
    """The presets that a name stands for.

    Raises:
        ToolError: there is none of that name.
    """
    every = presets()
    if name == CARD:
        return every
    if name not in every:
        raise ToolError(f"there is no preset {name!r}; there are {', '.join([*every, CARD])}")
    return {name: every[name]}
