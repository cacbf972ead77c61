"""Strategies on TREC DL 2019's real BM25 lists, ranked by a noisy oracle in place of a model.

The oracle sees a passage's judged relevance plus two errors: one that sticks to the passage (a model is wrong
about it in every window) and one that is new in every window. How strategies compare depends on how much of
the error is new in every window, since only that part averages out, so several shares are tried at the same
total variance. Nothing else of a model is simulated: no bias towards a position, no trouble with long lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.context import Context, Skipped
from benchmarks.workloads import DL19
from dear_serving.ranking.strategies import STRATEGIES, joint
from dear_serving.ranking.strategies.cost import cost
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.trec import load_qrels

Floats = NDArray[np.float64]

PASSAGES, WINDOW, STEP, TOP_N = 100, 20, 10, 10
SHAPE = Sizes(PASSAGES, WINDOW, STEP, TOP_N)
REFERENCE = "sliding"

STICKING_SD, GUMBEL_SCALE = 0.65, 0.6  # the setting of the project's first simulations
GUMBEL_VARIANCE = math.pi**2 / 6  # at scale 1
VARIANCE = STICKING_SD**2 + GUMBEL_SCALE**2 * GUMBEL_VARIANCE
MAIN_SHARE = GUMBEL_SCALE**2 * GUMBEL_VARIANCE / VARIANCE
SHARES = (0.25, MAIN_SHARE, 0.9)

RUNS, QUICK_RUNS = 60, 4

_DISCOUNTS = 1 / np.log2(np.arange(2, TOP_N + 2))


def _tournaments() -> Strategy:
    return self_consistent(partial(STRATEGIES["tourrank"], SHAPE), PASSAGES, 2, top_n=TOP_N)


ARMS: dict[str, Callable[[], Strategy]] = {
    REFERENCE: partial(STRATEGIES[REFERENCE], SHAPE),
    "merge2": partial(STRATEGIES["merge2"], SHAPE),
    "joint, 2 looks": partial(joint, SHAPE, looks=2),
    "joint, 3 looks": partial(STRATEGIES["joint"], SHAPE),
    "joint, 3 looks, final": partial(joint, SHAPE, final=True),
    "tourrank": partial(STRATEGIES["tourrank"], SHAPE),
    "tourrank, 2 passes": _tournaments,
    "one window of 100": partial(STRATEGIES["single"], SHAPE),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """The judged relevance (0 to 3, unjudged 0) of each passage in BM25's order, and the best DCG@10 that
    all judged passages allow."""

    relevance: Floats
    best: float

    def ndcg(self, order: tuple[int, ...]) -> float:
        """nDCG@10 in points of 100, as trec_eval: a gain is the relevance itself."""
        return 100 * float(self.relevance[list(order[:TOP_N])] @ _DISCOUNTS) / self.best


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviation of the error that sticks, and scale of the Gumbel error of each window."""

    sticking_sd: float
    gumbel_scale: float

    @classmethod
    def of(cls, share: float) -> Noise:
        """Noise of the one total variance, so much of it (0 to 1) new in every window."""
        return cls(
            math.sqrt((1 - share) * VARIANCE),
            math.sqrt(share * VARIANCE / GUMBEL_VARIANCE),
        )


def simulate(context: Context) -> dict[str, Any]:
    """nDCG@10 of every arm at every share of the noise; one advance() a share.

    Raises:
        Skipped: the lists are not there.
    """
    topics = read_topics(DL19)
    runs = QUICK_RUNS if context.quick else RUNS
    settings = []
    for share in SHARES:
        noise = Noise.of(share)
        points = {name: np.empty((runs, len(topics))) for name in ARMS}
        for run in range(runs):
            for place, topic in enumerate(topics):
                generator = np.random.default_rng([context.seed, run, place])
                seen = topic.relevance + generator.normal(0, noise.sticking_sd, PASSAGES)
                for name, make in ARMS.items():
                    order = _play(make(), seen, noise.gumbel_scale, generator)
                    points[name][run, place] = topic.ndcg(order)
        settings.append({"share": share, **asdict(noise), "arms": _summaries(points)})
        context.advance(f"simulation: {share:.0%} of the noise is new in every window")
    bm25 = np.mean([topic.ndcg(tuple(range(PASSAGES))) for topic in topics])
    return {
        "topics": len(topics),
        "runs": runs,
        "main_share": MAIN_SHARE,
        "bm25_ndcg": float(bm25),
        "sizes": asdict(SHAPE),
        "costs": {name: asdict(cost(make())) for name, make in ARMS.items()},
        "settings": settings,
    }


def read_topics(candidates: Path) -> list[Topic]:
    """The topics that have judgements, from RankLLM's candidates and the qrels.txt beside them.

    Raises:
        Skipped: one of the files is not there.
    """
    judgements = candidates.with_name("qrels.txt")
    for path in (candidates, judgements):
        if not path.is_file():
            raise Skipped(f"TREC DL 2019's {path.name} is not at hand")
    judged = load_qrels(judgements)
    topics = []
    for one in load_rankgpt(candidates)[0]:
        grades = judged.get(one.id)
        if grades is not None and len(one.order) >= PASSAGES:
            relevance = [grades.get(document, 0) for document in one.order[:PASSAGES]]
            best = np.sort(np.array(list(grades.values()), float))[::-1][:TOP_N]
            topics.append(Topic(np.array(relevance, float), float(best @ _DISCOUNTS[: len(best)])))
    return topics


def _play(
    strategy: Strategy, seen: Floats, gumbel_scale: float, generator: np.random.Generator
) -> tuple[int, ...]:
    """Drive a strategy with windows sorted by ``seen`` plus an error of their own."""
    try:
        batch = next(strategy)
        while True:
            orders = []
            for window in batch.windows:
                worth = seen[list(window.passages)]
                worth = worth + generator.gumbel(0, gumbel_scale, len(worth))
                orders.append(tuple(np.argsort(-worth).tolist()))
            batch = strategy.send(orders)
    except StopIteration as done:
        return tuple(done.value)


def _summaries(points: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Per arm: the mean with its standard error over runs, and the difference to the reference, topic by
    topic, with its standard error over topics."""
    summaries = {}
    for name, figures in points.items():
        of_run, of_topic = figures.mean(axis=1), (figures - points[REFERENCE]).mean(axis=0)
        summaries[name] = {
            "ndcg": float(of_run.mean()),
            "ndcg_se": float(of_run.std(ddof=1) / math.sqrt(len(of_run))),
            "difference": float(of_topic.mean()),
            "difference_se": float(of_topic.std(ddof=1) / math.sqrt(len(of_topic))),
        }
    return summaries
