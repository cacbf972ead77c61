"""Permutation decoding against free generation of the same number of identifiers, on one engine.

Free generation writes "[3] > [0] > ..." token by token, 4N - 1 of them for N passages; permutation decoding
asks the model for the identifiers alone. Two free arms: ``free`` has exactly 4N - 1 tokens (the targets'
one), ``generate`` is the server's own free mode, which has to allow for a model that writes more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from benchmarks.context import Context
from benchmarks.decode_report import (
    FIRST,
    FREE,
    OWN_FREE,
    PERMUTATION,
    TOP,
    TOP_N,
    claims,
    plot,
    tables,
)
from benchmarks.load import closed_loop, http_client
from benchmarks.prompts import Prompts
from benchmarks.quartiles import percentile
from benchmarks.rerank import Answer, rerank
from benchmarks.server import Server
from benchmarks.workloads import Lists, Workload

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "decode"
TITLE = "Permutation decoding against free generation"

MODEL = "legal"
PERMUTATION_OPTIONS = {"scoring": "permutation", "strategy": "single"}
GENERATE_OPTIONS = {"scoring": "generate", "strategy": "single"}
FIRST_TOKEN_OPTIONS = {"scoring": "first_token", "strategy": "single"}
ENGINE_STEPS = "vllm:iteration_tokens_total_count"


@dataclass(frozen=True, slots=True)
class Cell:
    """One condition: lists of ``passages`` texts, ``concurrency`` callers, ``rounds`` times every arm.

    A round is one request a caller. Arms that no ratio needs are measured in every ``sparse``-th round.
    """

    passages: int
    concurrency: int
    rounds: int
    passage_tokens: int = 24
    sparse: int = 2


CELLS = (
    Cell(5, 1, 8),
    Cell(10, 1, 8),
    Cell(20, 1, 12),
    Cell(5, 8, 4, sparse=4),
    Cell(10, 8, 4, sparse=4),
    Cell(20, 8, 4, sparse=4),
    Cell(5, 32, 4, sparse=4),
    Cell(10, 32, 4, sparse=4),
    Cell(20, 32, 4, sparse=4),
    Cell(20, 32, 4, passage_tokens=8, sparse=4),
)
QUICK_CELLS = (Cell(5, 1, 2), Cell(20, 1, 2), Cell(20, 32, 1, passage_tokens=8))

Send = Callable[[Workload], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to rank a list; ``sparse`` ones stand in no ratio."""

    name: str
    send: Send
    sparse: bool


def steps(quick: bool) -> int:
    """One a cell."""
    return len(QUICK_CELLS if quick else CELLS)


def run(context: Context) -> dict[str, Any]:
    """Measure every cell, arms in turn."""
    return asyncio.run(_run(context, context.server()))


async def _run(context: Context, server: Server) -> dict[str, Any]:
    prompts = Prompts(server.config, MODEL)
    before, cells = server.metrics(), []
    async with http_client(server.url) as client:
        for cell in QUICK_CELLS if context.quick else CELLS:
            text = f"{NAME}: {cell.passages} passages, {cell.concurrency} callers"
            context.show(text)
            cells.append(await _measure(cell, _arms(cell, client, prompts), context.seed, server))
            context.advance(text)
    after = server.metrics()
    hits, queries = (
        after[f"vllm:prefix_cache_{kind}_total"] - before[f"vllm:prefix_cache_{kind}_total"]
        for kind in ("hits", "queries")
    )
    return {
        "model": MODEL,
        "source": Lists(context.seed).text_source,
        "prefix_cache_share": hits / queries,
        "cells": cells,
    }


def _arms(cell: Cell, client: httpx.AsyncClient, prompts: Prompts) -> list[Arm]:
    """What is compared; a top n only where it leaves passages unranked."""
    free_tokens = 4 * cell.passages - 1

    def ranked(options: dict[str, str], top_n: int | None = None) -> Send:
        return lambda one: rerank(client, MODEL, one, options, top_n)

    arms = [
        Arm(PERMUTATION, ranked(PERMUTATION_OPTIONS), False),
        Arm(FREE, lambda one: prompts.complete(client, one, free_tokens), False),
        Arm(OWN_FREE, ranked(GENERATE_OPTIONS), True),
        # Decode times are differences to it, taken at one caller.
        Arm(FIRST, ranked(FIRST_TOKEN_OPTIONS), cell.concurrency > 1),
    ]
    if cell.passages > TOP_N:
        arms.insert(1, Arm(TOP, ranked(PERMUTATION_OPTIONS, TOP_N), False))
    return arms


async def _measure(cell: Cell, arms: list[Arm], seed: int, server: Server) -> dict[str, Any]:
    """Every arm once a round, each request with a list of its own; who goes first changes with the round."""
    lists = Lists(seed + cell.concurrency, cell.passage_tokens)
    measured: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for arm in arms:
        await arm.send(lists.new(cell.passages))
    for round_ in range(cell.rounds):
        due = [arm for arm in arms if not arm.sparse or round_ % cell.sparse == 0]
        for arm in due if round_ % 2 == 0 else reversed(due):
            workloads = lists.take(cell.concurrency, cell.passages)
            measured[arm.name].append(await _round(arm, workloads, server))
    prompt_tokens = [tokens for figures in measured[PERMUTATION] for tokens in figures["prompt_tokens"]]
    return asdict(cell) | {"prompt_tokens": percentile(prompt_tokens, 0.5), "arms": measured}


async def _round(arm: Arm, workloads: list[Workload], server: Server) -> dict[str, Any]:
    """All lists at once; engine steps are what the engine itself counted meanwhile."""

    async def send(number: int) -> Answer:
        return await arm.send(workloads[number])

    before = server.metrics()[ENGINE_STEPS]
    load = await closed_loop(send, len(workloads), len(workloads))
    return {
        "wall_s": load.wall_s,
        "engine_steps": server.metrics()[ENGINE_STEPS] - before,
        "latencies_ms": list(load.latencies_ms),
        "engine_ms": [answer.engine_ms for answer in load.replies],
        "prompt_tokens": [answer.prompt_tokens for answer in load.replies],
        "completion_tokens": [answer.completion_tokens for answer in load.replies],
    }
