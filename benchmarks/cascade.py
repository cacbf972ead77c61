"""Two stages beside listwise over all: tokens at equal nDCG@10, in simulation and on the real engine.

The tiny model counts shared words in both stages, so its first stage is as good as its windows; how much a
first stage may err is the simulation's to say.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from benchmarks import cascade_simulation
from benchmarks.cascade_report import claims, plot, tables
from benchmarks.context import Context, Skipped
from benchmarks.server import CPU_CONFIG
from configs.demo.maker.lists import ListShape, RankingList, ranking_lists
from configs.demo.maker.metrics import ndcg_at_10
from configs.demo.maker.relevance import BASE
from dear_client import Client, RerankOptions, Retry, Timeout

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "cascade"
TITLE = "Two stages beside listwise over all"

MODEL = "dear-tiny"
PASSAGES, TOP_N = 100, 10
LISTS, QUICK_LISTS = 8, 2
_TIMEOUT = Timeout(answer_s=300.0)

ARMS: dict[str, RerankOptions] = {
    "sliding": {"strategy": "sliding"},
    "auto": {},
    "first stage alone": {"strategy": "pointwise"},
    "cascade, best 10": {"strategy": "cascade", "cascade_depth": 10},
    "cascade, best 20": {"strategy": "cascade", "cascade_depth": 20},
}


def steps(quick: bool) -> int:
    """One a first stage of the simulation, one for the engine."""
    return len(cascade_simulation.FIRST_STAGES) + 1


def run(context: Context) -> dict[str, Any]:
    """Rank generated lists with every arm in turn on the server; then simulate."""
    server = context.server(CPU_CONFIG.with_name("cascade.yaml"))
    # As long as MS MARCO's passages.
    shape = ListShape(PASSAGES, PASSAGES, max_passage_words=90, mean_passage_words=60)
    count = QUICK_LISTS if context.quick else LISTS
    # The first list warms up, and is not counted.
    lists = list(islice(ranking_lists(context.seed, shape, held_out=True, notion=BASE), count + 1))
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    with Client(server.url, timeout=_TIMEOUT, retry=Retry(attempts=1)) as client:
        for number, one in enumerate(lists):
            context.show(f"{NAME}: list {number} of {count}")
            for name in list(ARMS) if number % 2 else list(ARMS)[::-1]:
                figures = _rank(client, ARMS[name], one)
                if number:
                    measured[name].append(figures)
    context.advance(f"{NAME}: on the engine")
    return {
        "model": MODEL,
        "passages": PASSAGES,
        "top_n": TOP_N,
        "lists": count,
        "arms": measured,
        "simulation": _simulation(context),
    }


def _simulation(context: Context) -> dict[str, Any]:
    try:
        return cascade_simulation.simulate(context)
    except Skipped as reason:
        for _ in cascade_simulation.FIRST_STAGES:
            context.advance("simulation: skipped")
        return {"skipped": str(reason)}


def _rank(client: Client, options: RerankOptions, one: RankingList) -> dict[str, Any]:
    started_s = time.perf_counter()
    asked: RerankOptions = {"model": MODEL, "top_n": TOP_N, **options}
    ranking = client.rerank(one.query, one.passages, **asked)
    wall_ms = (time.perf_counter() - started_s) * 1e3
    # Only the top n come back; nDCG@10 wants no more, but the gold ones must all be there to divide by.
    rest = [index for index in range(len(one.passages)) if index not in set(ranking.order)]
    assert ranking.details is not None
    return {
        "strategy": ranking.details.strategy,
        "wall_ms": wall_ms,
        "windows": ranking.details.windows,
        "rounds": ranking.details.rounds,
        "scored": ranking.details.scored or 0,
        "prompt_tokens": ranking.usage.prompt_tokens,
        "tokens": ranking.usage.total_tokens,
        "ndcg": 100 * ndcg_at_10([*ranking.order, *rest], one.relevance),
    }
