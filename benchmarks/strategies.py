"""Strategies on the real engine and in simulation: windows, rounds, wall time, quality.

The engine ranks generated lists with the tiny model, whose errors say little about an 8B model's: its nDCG@10
shows that nothing is lost on the way, the simulation how strategies compare.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx

from benchmarks import simulation
from benchmarks.context import Context, Skipped
from benchmarks.demo_model.lists import ListShape, RankingList, ranking_lists
from benchmarks.demo_model.metrics import ndcg_at_10
from benchmarks.demo_model.relevance import BASE
from benchmarks.strategies_report import REFERENCE, claims, plot, tables

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "strategies"
TITLE = "Strategies for more passages than one window holds"

MODEL = "dear-tiny"
WINDOW, STEP, TOP_N = 20, 10, 10
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Lists of ``passages`` passages, ranked by every strategy in turn, ``rounds`` times."""

    passages: int
    rounds: int
    strategies: tuple[str, ...]


_ALL = (REFERENCE, "merge2", "joint", "tourrank")
# One window holds 20 passages, so all but tourrank do the same: single beside sliding shows the noise.
CELLS = (
    Cell(20, 8, (REFERENCE, "single", "tourrank")),
    Cell(50, 8, _ALL),
    Cell(100, 10, _ALL),
)
QUICK_CELLS = (Cell(20, 2, CELLS[0].strategies), Cell(100, 2, _ALL))


def steps(quick: bool) -> int:
    """One a cell, and one a share of the simulated noise."""
    cells = len(QUICK_CELLS if quick else CELLS)
    return cells + len(simulation.SHARES)


def run(context: Context) -> dict[str, Any]:
    """Measure every cell on the server, strategies in turn; then simulate."""
    server, cells = context.server(), []
    with httpx.Client(base_url=server.url, timeout=_TIMEOUT_S) as client:
        for cell in QUICK_CELLS if context.quick else CELLS:
            context.show(f"{NAME}: {cell.passages} passages")
            cells.append(_measure(cell, client, context.seed))
            context.advance(f"{NAME}: {cell.passages} passages")
    return {
        "model": MODEL,
        "window": WINDOW,
        "step": STEP,
        "top_n": TOP_N,
        "cells": cells,
        "simulation": _simulation(context),
    }


def _simulation(context: Context) -> dict[str, Any]:
    try:
        return simulation.simulate(context)
    except Skipped as reason:
        for _ in simulation.SHARES:
            context.advance("simulation: skipped")
        return {"skipped": str(reason)}


def _measure(cell: Cell, client: httpx.Client, seed: int) -> dict[str, Any]:
    """Every strategy once a round, each on the same list; who goes first changes with the round.

    Each gets the list rotated by another number of places: the same passages to rank, and no window that the
    prefix cache has seen.
    """
    shape = ListShape(cell.passages, cell.passages)
    # The first list warms up, and is not counted.
    lists = list(islice(ranking_lists(seed, shape, held_out=True, notion=BASE), cell.rounds + 1))
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in cell.strategies}
    for number, one in enumerate(lists):
        names = cell.strategies if number % 2 else cell.strategies[::-1]
        for place, name in enumerate(names):
            figures = _rank(client, name, _rotated(one, 1 + place * cell.passages // len(names)))
            if number:
                measured[name].append(figures)
    return {"passages": cell.passages, "rounds": cell.rounds, "arms": measured}


def _rotated(one: RankingList, places: int) -> RankingList:
    return RankingList(
        one.query,
        one.passages[places:] + one.passages[:places],
        one.relevance[places:] + one.relevance[:places],
    )


def _rank(client: httpx.Client, strategy: str, one: RankingList) -> dict[str, Any]:
    body = {
        "model": MODEL,
        "query": one.query,
        "documents": one.passages,
        "top_n": TOP_N,
        "dear": {"strategy": strategy, "window_size": WINDOW, "step": STEP},
    }
    started_s = time.perf_counter()
    response = client.post("/v2/rerank", json=body)
    wall_ms = (time.perf_counter() - started_s) * 1e3
    response.raise_for_status()
    reply = response.json()
    order = [result["index"] for result in reply["results"]]
    # Only the top n come back; nDCG@10 wants no more, but the gold ones must all be there to divide by.
    rest = [index for index in range(len(one.passages)) if index not in set(order)]
    dear, usage = reply["meta"]["dear"], reply["usage"]
    return {
        "wall_ms": wall_ms,
        "engine_ms": dear["engine_ms"],
        "windows": dear["windows"],
        "rounds": dear["rounds"],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "ndcg": 100 * ndcg_at_10(order + rest, one.relevance),
    }
