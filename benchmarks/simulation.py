"""Strategies on TREC DL 2019's real BM25 lists, ranked by a noisy oracle in place of a model.

The oracle sees a passage's judged relevance plus two errors: one that sticks to the passage (a model is wrong
about it in every window) and one that is new in every window. How strategies compare depends on how much of
the error is new in every window, since only that part averages out, so several shares are tried at the same
total variance. Nothing else of a model is simulated: no bias towards a position, no trouble with long lists.

Arms that adapt to the orders take other windows on every list: what they cost is the mean over all plays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import pivots
from benchmarks.context import Context, Skipped
from benchmarks.workloads import DL19
from dear_serving.ranking.strategies import STRATEGIES, blitz, joint
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.windows import Sizes, Strategy, Window
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.trec import load_qrels

Floats = NDArray[np.float64]

PASSAGES, WINDOW, STEP, TOP_N = 100, 20, 10, 10
SHAPE = Sizes(PASSAGES, WINDOW, STEP, TOP_N)
REFERENCE = "sliding"
IDLE = "joint, 3 looks"
"""What ``auto`` takes while engines are idle: arms are compared with it as well."""
PIVOT_GRADE = 1.5
"""How relevant a written pivot is: between what is related and what is relevant."""

# Prompt tokens of a window and of a passage in it: DL19's lists in the card's prompt (20 passages take 1,392,
# 50 take 3,366).
WINDOW_TOKENS, PASSAGE_TOKENS = 76, 65.8

STICKING_SD, GUMBEL_SCALE = 0.65, 0.6  # the setting of the project's first simulations
GUMBEL_VARIANCE = math.pi**2 / 6  # at scale 1
VARIANCE = STICKING_SD**2 + GUMBEL_SCALE**2 * GUMBEL_VARIANCE
MAIN_SHARE = GUMBEL_SCALE**2 * GUMBEL_VARIANCE / VARIANCE
SHARES = (0.25, MAIN_SHARE, 0.9)

RUNS, QUICK_RUNS = 30, 4

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
    "blitz": partial(STRATEGIES["blitz"], SHAPE),
    "blitz, 1 look": partial(blitz, SHAPE, looks=1),
    "blitz, 3 looks": partial(blitz, SHAPE, looks=3),
    "deepen": partial(STRATEGIES["deepen"], SHAPE),
    "pivot of the list": partial(pivots.pivot_of_the_list, SHAPE),
    "written pivot": partial(pivots.written_pivot, SHAPE),
    "stride by pivot": partial(pivots.stride_by_pivot, SHAPE),
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


class Play(NamedTuple):
    """A strategy's order and what it took."""

    order: tuple[int, ...]
    windows: int
    rounds: int
    shown: int

    @property
    def tokens(self) -> float:
        """Of all prompts."""
        return WINDOW_TOKENS * self.windows + PASSAGE_TOKENS * self.shown


def simulate(context: Context) -> dict[str, Any]:
    """nDCG@10 of every arm at every share of the noise; one advance() a share.

    Raises:
        Skipped: the lists are not there.
    """
    topics = read_topics(DL19)
    runs = QUICK_RUNS if context.quick else RUNS
    settings = []
    took = {name: np.empty((len(SHARES), runs, len(topics), 4)) for name in ARMS}
    for place_of_share, share in enumerate(SHARES):
        noise = Noise.of(share)
        points = {name: np.empty((runs, len(topics))) for name in ARMS}
        for run in range(runs):
            for place, topic in enumerate(topics):
                generator = np.random.default_rng([context.seed, run, place])
                worth = np.append(topic.relevance, PIVOT_GRADE)
                seen = worth + generator.normal(0, noise.sticking_sd, PASSAGES + 1)
                for name, make in ARMS.items():
                    played = play(make(), seen, noise.gumbel_scale, generator)
                    points[name][run, place] = topic.ndcg(played.order)
                    took[name][place_of_share, run, place] = (*played[1:], played.tokens)
        settings.append({"share": share, **asdict(noise), "arms": _summaries(points)})
        context.advance(f"simulation: {share:.0%} of the noise is new in every window")
    bm25 = np.mean([topic.ndcg(tuple(range(PASSAGES))) for topic in topics])
    return {
        "topics": len(topics),
        "runs": runs,
        "main_share": MAIN_SHARE,
        "bm25_ndcg": float(bm25),
        "shape": asdict(SHAPE),
        "costs": {name: _cost(figures) for name, figures in took.items()},
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


def play(
    strategy: Strategy,
    seen: Floats,
    gumbel_scale: float,
    generator: np.random.Generator,
    observe: Callable[[Window, tuple[int, ...], Floats], None] = lambda window, order, worth: None,
) -> Play:
    """Drive a strategy with windows sorted by ``seen`` plus an error of their own.

    Args:
        observe: called with every window, its order, and what its passages seemed worth.
    """
    windows = rounds = shown = 0
    try:
        batch = next(strategy)
        while True:
            orders = []
            for window in batch.windows:
                worth = seen[list(window.passages)]
                worth = worth + generator.gumbel(0, gumbel_scale, len(worth))
                orders.append(tuple(np.argsort(-worth).tolist()))
                observe(window, orders[-1], worth)
                shown += len(worth)
            windows, rounds = windows + len(orders), rounds + 1
            batch = strategy.send(orders)
    except StopIteration as done:
        return Play(tuple(done.value), windows, rounds, shown)


def _cost(took: Floats) -> dict[str, float]:
    """Means over all plays, and the most windows and rounds of one."""
    windows, rounds, shown, tokens = took.reshape(-1, 4).mean(axis=0).tolist()
    most_windows, most_rounds, *_ = took.reshape(-1, 4).max(axis=0).tolist()
    return {
        "calls": windows,
        "most_calls": most_windows,
        "rounds": rounds,
        "most_rounds": most_rounds,
        "shown": shown,
        "tokens": tokens,
    }


def _summaries(points: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """Per arm: the mean with its standard error over runs, and the differences to the reference and to what
    ``auto`` takes, topic by topic, with their standard errors over topics."""
    summaries = {}
    for name, figures in points.items():
        of_run = figures.mean(axis=1)
        summary = {
            "ndcg": float(of_run.mean()),
            "ndcg_se": float(of_run.std(ddof=1) / math.sqrt(len(of_run))),
        }
        for key, other in (("difference", REFERENCE), ("to_idle", IDLE)):
            of_topic = (figures - points[other]).mean(axis=0)
            summary[key] = float(of_topic.mean())
            summary[f"{key}_se"] = float(of_topic.std(ddof=1) / math.sqrt(len(of_topic)))
        summaries[name] = summary
    return summaries
