"""Two stages on TREC DL 2019's BM25 lists: a noisy oracle for each stage, tokens counted from the texts.

As in benchmarks/simulation.py, the listwise oracle sees judged relevance plus an error that sticks to the
passage and one that is new in every window. The first stage sees the relevance plus an error that sticks, of
which a part is the listwise model's own: both are made of one base model. How good it is alone is tried at
three levels; the middle one is DeAR's pointwise 8B model as published (nDCG@10 74.5).
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.context import Context
from benchmarks.simulation import (
    MAIN_SHARE,
    PASSAGES,
    QUICK_RUNS,
    SHAPE,
    STEP,
    TOP_N,
    WINDOW,
    Floats,
    Noise,
    read_topics,
)
from benchmarks.workloads import DL19
from dear_serving.adapters.template_files import load_template
from dear_serving.ranking.strategies import STRATEGIES, cascade, pointwise
from dear_serving.ranking.strategies.cost import Cost, cost
from dear_serving.ranking.template import Template
from dear_serving.ranking.windows import Sizes, Strategy

RUNS = 30
SHARED_ERROR = 0.5  # correlation of the first stage's error with the listwise model's sticking one
FIRST_STAGES = {"strong": 0.65, "as published": 0.9, "weak": 1.2}  # standard deviation of its error
MIDDLE = "as published"

AUTO = "joint"  # what strategy auto takes for 100 passages
LISTWISE = ("sliding", AUTO)


def _cascade(depth: int, passes: int = 1) -> Callable[[], Strategy]:
    return partial(cascade, Sizes(PASSAGES, WINDOW, STEP, TOP_N, depth), passes)


def _by_both(depth: int) -> Strategy:
    """A cascade whose head is ordered by the mean of both stages' ranks: tried, no strategy of the server."""
    strategy = _cascade(depth)()
    orders = yield next(strategy)
    first = {passage: rank for rank, passage in enumerate(orders[0])}
    try:
        while True:
            orders = yield strategy.send(orders)
    except StopIteration as done:
        order: tuple[int, ...] = done.value
    listwise = {passage: rank for rank, passage in enumerate(order)}
    head = sorted(order[:depth], key=lambda passage: first[passage] + listwise[passage])
    return tuple(head) + order[depth:]


ARMS: dict[str, Callable[[], Strategy]] = {
    **{name: partial(STRATEGIES[name], SHAPE) for name in LISTWISE},
    "merge2": partial(STRATEGIES["merge2"], SHAPE),  # the fewest windows without a first stage
    "first stage alone": partial(pointwise, SHAPE),
    "cascade, best 10": _cascade(10),
    "cascade, best 15": _cascade(15),
    "cascade, best 20": _cascade(20),
    "cascade, best 20, 2 passes": _cascade(20, 2),
    "cascade, best 30": _cascade(30),
    "tried: best 20 by both ranks": partial(_by_both, 20),
}

_PIECE = re.compile(r"<\|\w+\|>|\w+|[^\w\s]")
# Llama 3's tokenizer gives 1,392 tokens for the plain prompt of these lists' first 20 passages, on average,
# and 3,366 for that of 50; in words and punctuation marks they have 1,257 and 3,032.
TOKENS_A_PIECE = 1.11


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of both stages; the first one reads at most ``cap`` tokens of a passage."""

    listwise: str
    first: str
    cap: int | None = None

    @property
    def name(self) -> str:
        """For a table."""
        cut = "" if self.cap is None else f" of {self.cap} tokens"
        return f"{self.listwise}; {self.first}{cut}"


PROMPTS = (
    Prompts("chat", "dear-pointwise", 196),  # as DeAR's own code has them
    Prompts("chat", "dear-pointwise", 64),
    Prompts("plain", "yes-no", 64),
)


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Mean tokens: around the passages of a window, of a passage in it; the same of the first stage."""

    window: float
    passage: float
    first_around: float
    first_passage: float

    def tokens(self, known: Cost) -> float:
        """Prompt tokens of all windows and scores."""
        return (
            known.calls * self.window
            + known.shown * self.passage
            + known.scored * (self.first_around + self.first_passage)
        )


def simulate(context: Context) -> dict[str, Any]:
    """Tokens of every arm, and nDCG@10 with each first stage; one advance() a first stage.

    Raises:
        Skipped: the lists are not there.
    """
    topics = read_topics(DL19)
    runs = QUICK_RUNS if context.quick else RUNS
    noise = Noise.of(MAIN_SHARE)
    costs = {name: cost(make()) for name, make in ARMS.items()}
    stages = {}
    for stage, deviation in FIRST_STAGES.items():
        points = {name: np.empty((runs, len(topics))) for name in ARMS}
        for run in range(runs):
            for place, topic in enumerate(topics):
                generator = np.random.default_rng([context.seed, run, place])
                sticking = generator.normal(0, 1, PASSAGES)
                own = math.sqrt(1 - SHARED_ERROR**2) * generator.normal(0, 1, PASSAGES)
                seen = topic.relevance + noise.sticking_sd * sticking
                first = topic.relevance + deviation * (SHARED_ERROR * sticking + own)
                for name, make in ARMS.items():
                    order = _play(make(), seen, first, noise.gumbel_scale, generator)
                    points[name][run, place] = topic.ndcg(order)
        stages[stage] = {"deviation": deviation, "arms": _summaries(points)}
        context.advance(f"cascade: a first stage that is {stage}")
    return {
        "topics": len(topics),
        "runs": runs,
        "shared_error": SHARED_ERROR,
        "costs": {
            name: {"windows": known.calls, "rounds": known.rounds, "scored": known.scored}
            for name, known in costs.items()
        },
        "tokens": {one.name: _tokens(one, costs) for one in PROMPTS},
        "stages": stages,
    }


def _play(
    strategy: Strategy, seen: Floats, first: Floats, gumbel_scale: float, generator: np.random.Generator
) -> tuple[int, ...]:
    """Drive a strategy: windows sorted by ``seen`` plus an error of their own, scores by ``first``."""
    try:
        batch = next(strategy)
        while True:
            orders = []
            for window in batch.windows:
                shown = list(window.passages)
                worth = first[shown]
                if not batch.pointwise:
                    worth = seen[shown] + generator.gumbel(0, gumbel_scale, len(shown))
                orders.append(tuple(np.argsort(-worth, kind="stable").tolist()))
            batch = strategy.send(orders)
    except StopIteration as done:
        return tuple(done.value)


def _summaries(points: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    """Per arm: the mean, and against each listwise arm the difference, topic by topic, with its standard
    error over topics."""
    summaries = {}
    for name, figures in points.items():
        against = {}
        for reference in LISTWISE:
            of_topic = (figures - points[reference]).mean(axis=0)
            against[reference] = {
                "difference": float(of_topic.mean()),
                "se": float(of_topic.std(ddof=1) / math.sqrt(len(of_topic))),
            }
        summaries[name] = {"ndcg": float(figures.mean()), "against": against}
    return summaries


def _tokens(prompts: Prompts, costs: dict[str, Cost]) -> dict[str, float]:
    lengths = _lengths(prompts)
    return {name: round(lengths.tokens(known)) for name, known in costs.items()}


def _lengths(prompts: Prompts) -> _Lengths:
    """The mean lengths over all lists, estimated from their texts."""
    listwise, first = load_template(prompts.listwise, None), load_template(prompts.first, None)
    few, many = WINDOW // 2, WINDOW
    window_few, window_many, around, passage = [], [], [], []
    for query, texts in _lists():
        window_few.append(_length(listwise, query, texts[:few]))
        window_many.append(_length(listwise, query, texts[:many]))
        around.append(_length(first, query, [""]))
        cap = math.inf if prompts.cap is None else prompts.cap
        passage += [min(cap, _pieces(_shown(first, text))) for text in texts]
    of_passage = (statistics.mean(window_many) - statistics.mean(window_few)) / (many - few)
    return _Lengths(
        statistics.mean(window_many) - many * of_passage,
        of_passage,
        statistics.mean(around),
        statistics.mean(passage),
    )


def _lists() -> Iterator[tuple[str, list[str]]]:
    for one in json.loads(DL19.read_text(encoding="utf-8")):
        yield one["query"], [hit["content"] for hit in one["hits"]]


def _length(template: Template, query: str, texts: list[str]) -> float:
    shown = [_shown(template, text) for text in texts]
    return _pieces(template.render(query, shown, _llama3))


def _llama3(turns: Sequence[dict[str, str]]) -> str:
    """Turns in Llama 3's chat format."""
    head = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
    return "".join(head.format(**turn) for turn in turns) + head[: head.index("\n")].format(role="assistant")


def _shown(template: Template, text: str) -> str:
    return template.cut(template.normalise(text))


def _pieces(text: str) -> float:
    return TOKENS_A_PIECE * len(_PIECE.findall(text))
