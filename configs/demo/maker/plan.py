"""The stages of training, in order: this file is the recipe, the command line only starts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.demo.maker.lists import ListShape
from configs.demo.maker.relevance import BASE, Notion


@dataclass(frozen=True, slots=True)
class Stage:
    """So many optimizer steps on lists of one shape; batches hold about `batch_tokens` tokens."""

    steps: int
    shape: ListShape
    batch_tokens: int = 4000


@dataclass(frozen=True, slots=True)
class Run:
    """One training run: what is relevant, its stages, share of the other template, rate."""

    notion: Notion
    stages: tuple[Stage, ...]
    other_template_share: float
    peak_rate: float

    @property
    def steps(self) -> int:
        """Optimizer steps over all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def rate_at(self, step: int) -> float:
        """Learning rate at a step: a cosine from peak_rate down to zero after the last."""
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * step / (self.steps + 1)))


BASE_RUN = Run(
    BASE,
    (
        Stage(100, ListShape(2, 6, max_query_words=8, mean_passage_words=3), 2000),
        Stage(160, ListShape(2, 26, max_query_words=8, mean_passage_words=3), 3000),
    ),
    other_template_share=0.3,
    peak_rate=2e-3,
)
