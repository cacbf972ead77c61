"""Confidence and certificates on TREC DL 2019's lists, with the noisy oracle in place of a model."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from benchmarks.simulation import MAIN_SHARE, PASSAGES, SHAPE, Floats, Noise, play, read_topics
from benchmarks.workloads import DL19
from dear_serving.ranking.confidence import Evidence
from dear_serving.ranking.strategies.auto import start
from dear_serving.ranking.windows import Window
from dear_serving.types import StrategyName
from dear_tools.evaluation.calibration import calibrate
from dear_tools.evaluation.results import QueryResult

ARMS: dict[str, tuple[StrategyName, int]] = {
    "sliding": ("sliding", 1),
    "joint": ("joint", 1),
    "blitz": ("blitz", 1),
    "blitz, 3 passes": ("blitz", 3),
}
RUNS, QUICK_RUNS = 10, 2


def simulate(seed: int, *, quick: bool) -> dict[str, Any]:
    """The calibration of every arm, all runs together; the halves are made of topics.

    Raises:
        Skipped: the lists are not there.
    """
    topics, noise, runs = read_topics(DL19), Noise.of(MAIN_SHARE), QUICK_RUNS if quick else RUNS
    found: dict[str, list[QueryResult]] = {name: [] for name in ARMS}
    grades: dict[str, dict[str, int]] = {}
    for place, topic in enumerate(topics):
        for run in range(runs):
            generator = np.random.default_rng([seed, run, place])
            seen = topic.relevance + generator.normal(0, noise.sticking_sd, PASSAGES)
            query = f"{place}-{run}"
            grades[query] = {str(passage): int(grade) for passage, grade in enumerate(topic.relevance)}
            for name, (strategy, passes) in ARMS.items():
                evidence = Evidence(PASSAGES)
                observe = partial(_observe, evidence, noise.gumbel_scale)
                played = play(start(strategy, SHAPE, passes), seen, noise.gumbel_scale, generator, observe)
                sure = evidence.along(played.order, SHAPE.top_n)
                found[name].append(
                    QueryResult(
                        query=query,
                        ranked=tuple((str(one), 0.0) for one in played.order[: SHAPE.top_n]),
                        confidences=tuple(one.confidence for one in sure),
                        certified=tuple(one.certified for one in sure),
                    )
                )
    arms = {}
    for name, answers in found.items():
        fitted = asdict(calibrate(answers, grades, lambda query: query.partition("-")[0]))
        certified = sum(sum(one.certified) for one in answers) / len(answers)
        arms[name] = fitted | {"certified_places": certified}
    return {"topics": len(topics), "runs": runs, "arms": arms}


def _observe(evidence: Evidence, scale: float, window: Window, order: tuple[int, ...], worth: Floats) -> None:
    """The window, with the log probabilities of a model that sees this worth."""
    odds = worth / scale
    log_probs = odds - np.logaddexp.reduce(odds)
    evidence.observe(window.passages, order, window.needed, log_probs.tolist())
