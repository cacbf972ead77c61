"""Strategies on the real engine and in simulation: windows, rounds, wall time, quality.

The engine ranks generated lists with the tiny model, whose errors say little about an 8B model's: its nDCG@10
shows that nothing is lost on the way, the simulation how strategies compare.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from benchmarks import busy, simulation, sureness
from benchmarks.context import Context, Skipped
from benchmarks.strategies_report import REFERENCE, claims, plot, tables
from configs.demo.maker.lists import ListShape, RankingList, ranking_lists
from configs.demo.maker.metrics import ndcg_at_10
from configs.demo.maker.relevance import BASE
from dear_client import Client, Retry, Timeout
from dear_client.options import Strategy

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "strategies"
TITLE = "Strategies for more passages than one window holds"

MODEL = "dear-tiny"
WINDOW, STEP, TOP_N = 20, 10, 10
_TIMEOUT = Timeout(answer_s=300.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """Lists of ``passages`` passages, ranked by every strategy in turn, ``rounds`` times."""

    passages: int
    rounds: int
    strategies: tuple[Strategy, ...]


_ALL: tuple[Strategy, ...] = (REFERENCE, "merge2", "joint", "tourrank", "blitz", "deepen")
# One window holds 20 passages, so all but tourrank do the same: single beside sliding shows the noise.
CELLS = (
    Cell(20, 8, (REFERENCE, "single", "tourrank")),
    Cell(50, 8, _ALL),
    Cell(100, 10, _ALL),
)
QUICK_CELLS = (Cell(20, 2, CELLS[0].strategies), Cell(100, 2, _ALL))

# Under load: callers that send lists of 100 one after another, in blocks, with joint and auto in turn.
CALLERS, LISTS, BLOCKS = 16, 32, 2
QUICK_LISTS, QUICK_BLOCKS = 8, 1


def steps(quick: bool) -> int:
    """One a cell, one a share of the simulated noise, and one for load."""
    cells = len(QUICK_CELLS if quick else CELLS)
    return cells + len(simulation.SHARES) + 1


def run(context: Context) -> dict[str, Any]:
    """Measure every cell on the server, strategies in turn; then simulate."""
    server, cells = context.server(), []
    with Client(server.url, timeout=_TIMEOUT, retry=Retry(attempts=1)) as client:
        for cell in QUICK_CELLS if context.quick else CELLS:
            context.show(f"{NAME}: {cell.passages} passages")
            cells.append(_measure(cell, client, context.seed))
            context.advance(f"{NAME}: {cell.passages} passages")
        context.show(f"{NAME}: under load")
        saturated = _saturate(client, context.seed, quick=context.quick)
        context.advance(f"{NAME}: under load")
    return {
        "model": MODEL,
        "window": WINDOW,
        "step": STEP,
        "top_n": TOP_N,
        "cells": cells,
        "saturated": saturated,
        "busy": busy.simulate(),
        "simulation": _simulation(context),
    }


def _simulation(context: Context) -> dict[str, Any]:
    try:
        return simulation.simulate(context) | {
            "sureness": sureness.simulate(context.seed, quick=context.quick)
        }
    except Skipped as reason:
        for _ in simulation.SHARES:
            context.advance("simulation: skipped")
        return {"skipped": str(reason)}


def _measure(cell: Cell, client: Client, seed: int) -> dict[str, Any]:
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


def _saturate(client: Client, seed: int, *, quick: bool) -> dict[str, Any]:
    """Lists a second of ``joint`` and of ``auto``, which meets its own load."""
    lists, blocks = (QUICK_LISTS, QUICK_BLOCKS) if quick else (LISTS, BLOCKS)
    drawn = ranking_lists(seed + 1, ListShape(100, 100), held_out=True, notion=BASE)
    found: dict[str, Any] = {"model": MODEL, "callers": CALLERS, "lists": lists, "today": [], "by_load": []}
    for block in range(blocks):
        some = list(islice(drawn, 2 * CALLERS + lists))
        arms: tuple[tuple[str, Strategy], ...] = (("today", "joint"), ("by_load", "auto"))
        for place, (name, strategy) in enumerate(arms if block % 2 else arms[::-1]):
            moved = [_rotated(one, 1 + 50 * place) for one in some]
            found[name].append(_load(client, strategy, moved))
    return found


def _load(client: Client, strategy: Strategy, lists: list[RankingList]) -> dict[str, float]:
    """What is answered while all callers wait for something: not the first lists, and not the last ones."""
    answered: list[tuple[float, dict[str, Any]]] = []

    def ask(one: RankingList) -> None:
        figures = _rank(client, strategy, one)
        answered.append((time.perf_counter(), figures))

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(ask, lists))
    (started_s, _), *counted = answered[CALLERS - 1 : len(lists) - CALLERS]
    ranked = [figures for _, figures in counted]
    return {
        "lists_a_second": len(ranked) / (counted[-1][0] - started_s),
        "blitz": sum(one["strategy"] == "blitz" for one in ranked) / len(ranked),
        "ndcg": sum(one["ndcg"] for one in ranked) / len(ranked),
    }


def _rotated(one: RankingList, places: int) -> RankingList:
    return RankingList(
        one.query,
        one.passages[places:] + one.passages[:places],
        one.relevance[places:] + one.relevance[:places],
    )


def _rank(client: Client, strategy: Strategy, one: RankingList) -> dict[str, Any]:
    started_s = time.perf_counter()
    ranking = client.rerank(
        one.query,
        one.passages,
        model=MODEL,
        top_n=TOP_N,
        strategy=strategy,
        window_size=WINDOW,
        step=STEP,
    )
    wall_ms = (time.perf_counter() - started_s) * 1e3
    # Only the top n come back; nDCG@10 wants no more, but the gold ones must all be there to divide by.
    rest = [index for index in range(len(one.passages)) if index not in set(ranking.order)]
    assert ranking.details is not None
    return {
        "wall_ms": wall_ms,
        "strategy": ranking.details.strategy,
        "engine_ms": ranking.details.engine_ms,
        "windows": ranking.details.windows,
        "rounds": ranking.details.rounds,
        "prompt_tokens": ranking.usage.prompt_tokens,
        "completion_tokens": ranking.usage.completion_tokens,
        "ndcg": 100 * ndcg_at_10([*ranking.order, *rest], one.relevance),
    }
