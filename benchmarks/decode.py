"""Permutation decoding against free generation of the same number of identifiers, on one engine.

Free generation writes "[3] > [0] > ..." token by token, 4N - 1 of them for N passages; permutation decoding
asks the model for the identifiers alone. Two free arms: ``free`` has exactly 4N - 1 tokens (the targets'
one), ``generate`` is the server's own free mode, which has to allow for a model that writes more.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.completions import Completions
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
from benchmarks.load import closed_loop, reranks
from benchmarks.prompts import Prompts
from benchmarks.quartiles import percentile
from benchmarks.server import Server
from benchmarks.workloads import Lists
from dear_client import RerankOptions
from dear_tools.load.lists import List
from dear_tools.load.sender import Sender

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "decode"
TITLE = "Permutation decoding against free generation"

PERMUTATION_OPTIONS: RerankOptions = {"scoring": "permutation", "strategy": "single"}
GENERATE_OPTIONS: RerankOptions = {"scoring": "generate", "strategy": "single"}
FIRST_TOKEN_OPTIONS: RerankOptions = {"scoring": "first_token", "strategy": "single"}
ENGINE_STEPS = "vllm:iteration_tokens_total_count"
PASSES = "dear_forward_passes_total"


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


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to rank a list; ``sparse`` ones stand in no ratio."""

    name: str
    sender: Sender | Completions
    sparse: bool


def steps(quick: bool) -> int:
    """One a cell."""
    return len(QUICK_CELLS if quick else CELLS)


def run(context: Context) -> dict[str, Any]:
    """Measure every cell, arms in turn."""
    return asyncio.run(_run(context, context.server()))


async def _run(context: Context, server: Server) -> dict[str, Any]:
    model = context.target.model
    prompts = Prompts(server.config, model)
    before, cells = server.metrics(), []
    for cell in QUICK_CELLS if context.quick else CELLS:
        text = f"{NAME}: {cell.passages} passages, {cell.concurrency} callers"
        context.show(text)
        compared = arms(cell, server.url, prompts)
        async with AsyncExitStack() as stack:
            for arm in compared:
                await stack.enter_async_context(arm.sender)
            cells.append(await measure(cell, compared, context.seed, server, model))
        context.advance(text)
    after = server.metrics()
    hits, queries = (
        after[f"vllm:prefix_cache_{kind}_total"] - before[f"vllm:prefix_cache_{kind}_total"]
        for kind in ("hits", "queries")
    )
    return {
        "model": model,
        "source": Lists(context.seed).text_source,
        "prefix_cache_share": hits / queries,
        "cells": cells,
    }


def arms(cell: Cell, url: str, prompts: Prompts) -> list[Arm]:
    """What is compared; a top n only where it leaves passages unranked."""
    free_tokens = 4 * cell.passages - 1

    def free(one: List) -> dict[str, Any]:
        """Exactly so many tokens, whatever they say."""
        lengths = {"max_tokens": free_tokens, "min_tokens": free_tokens, "ignore_eos": True}
        return {"prompt": prompts.token_ids(one), **lengths}

    found = [
        Arm(PERMUTATION, reranks(url, PERMUTATION_OPTIONS), False),
        Arm(FREE, Completions(url, free), False),
        Arm(OWN_FREE, reranks(url, GENERATE_OPTIONS), True),
        # Decode times are differences to it, taken at one caller.
        Arm(FIRST, reranks(url, FIRST_TOKEN_OPTIONS), cell.concurrency > 1),
    ]
    if cell.passages > TOP_N:
        found.insert(1, Arm(TOP, reranks(url, {**PERMUTATION_OPTIONS, "top_n": TOP_N}), False))
    return found


async def measure(cell: Cell, arms: list[Arm], seed: int, server: Server, model: str) -> dict[str, Any]:
    """Every arm once a round, each request with a list of its own; who goes first changes with the round."""
    lists = Lists(seed + cell.concurrency, cell.passage_tokens)
    measured: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for arm in arms:
        await closed_loop(arm.sender, lists.take(1, cell.passages), 1, [model])
    for round_ in range(cell.rounds):
        due = [arm for arm in arms if not arm.sparse or round_ % cell.sparse == 0]
        for arm in due if round_ % 2 == 0 else reversed(due):
            workloads = lists.take(cell.concurrency, cell.passages)
            measured[arm.name].append(await _round(arm, workloads, server, model))
    prompt_tokens = [tokens for figures in measured[PERMUTATION] for tokens in figures["prompt_tokens"]]
    return asdict(cell) | {"prompt_tokens": percentile(prompt_tokens, 0.5), "arms": measured}


async def _round(arm: Arm, lists: list[List], server: Server, model: str) -> dict[str, Any]:
    """All lists at once; engine steps are what the engine itself counted meanwhile."""
    before = server.metrics()
    load = await closed_loop(arm.sender, lists, len(lists), [model])
    after = server.metrics()
    return {
        "wall_s": load.wall_s,
        "engine_steps": after[ENGINE_STEPS] - before[ENGINE_STEPS],
        "passes": after.get(PASSES, 0.0) - before.get(PASSES, 0.0),
        "latencies_ms": load.latencies_ms,
        "engine_ms": [record.engine_ms for record in load.records],
        "prompt_tokens": [record.prompt_tokens for record in load.records],
        "completion_tokens": [record.completion_tokens for record in load.records],
    }
