"""The ways of decoding a window, on one model: drafted by drafts a pass, resumable, a request a choice."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.context import Context
from benchmarks.decode import Cell, arms, measure
from benchmarks.decode_report import FIRST, FREE, PERMUTATION
from benchmarks.decoders_report import claims, plot, tables
from benchmarks.machine_rates import machine_rates
from benchmarks.prompts import Prompts
from benchmarks.target import Target
from benchmarks.workloads import Lists
from dear_serving.sizing.model import QUANTISATIONS, load_model
from dear_serving.types import Decoding

__all__ = ["NAME", "TITLE", "claims", "plot", "run", "steps", "tables"]

NAME = "decoders"
TITLE = "The ways of decoding"


@dataclass(frozen=True, slots=True)
class Way:
    """``drafts`` tokens are verified a pass at most; 0 is not drafted. ``free``: free text beside it."""

    decoding: Decoding
    drafts: int = 0
    free: bool = False

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.decoding}, k={self.drafts}" if self.decoding == "drafted" else self.decoding


ALL = (
    Way("drafted", 11, free=True),
    *(Way("drafted", drafts) for drafts in (7, 5, 3, 1)),
    Way("resumable", free=True),
    Way("ordinary"),
)
QUICK = (Way("drafted", 11, free=True), Way("drafted", 3), Way("resumable", free=True))
# Whole passages, 60 words on average; the plain prompt cuts them to 300 characters.
LONG = 160
ALL_CELLS = (
    *(Cell(passages, 1, 3, sparse=1) for passages in (5, 20, 50, 100)),
    *(Cell(20, callers, 2, sparse=1) for callers in (8, 16, 32, 64)),
    Cell(20, 1, 3, passage_tokens=LONG, sparse=1),
    Cell(20, 8, 2, passage_tokens=LONG, sparse=1),
)
QUICK_CELLS = (
    Cell(20, 1, 4, passage_tokens=LONG, sparse=1),
    Cell(20, 8, 2, passage_tokens=LONG, sparse=1),
)


def steps(quick: bool) -> int:
    """One a way and cell."""
    return len(QUICK if quick else ALL) * len(QUICK_CELLS if quick else ALL_CELLS)


def run(context: Context) -> dict[str, Any]:
    """A server for each way, with every cell."""
    context.stop_server()  # which would share the machine with the rates
    rates = machine_rates()
    cells = []
    for way in QUICK if context.quick else ALL:
        cells += asyncio.run(_run(context, way))
    context.stop_server()
    return {
        "model": context.target.model,
        "source": Lists(context.seed).text_source,
        "rates": asdict(rates),
        "pass": pass_cost(context.target.base),
        "cells": cells,
    }


async def _run(context: Context, way: Way) -> list[dict[str, Any]]:
    server, model = context.server(write_config(context.scratch, context.target, way)), context.target.model
    prompts = Prompts(server.config, model)
    wanted = (PERMUTATION, FIRST, FREE) if way.free else (PERMUTATION, FIRST)
    name, decoder = way.name, server.decoder()
    if decoder != way.decoding:
        name += f", but the engine took the {decoder} way"
    found = []
    for cell in QUICK_CELLS if context.quick else ALL_CELLS:
        text = f"{NAME}: {way.name}, {cell.passages} passages, {cell.concurrency} callers"
        context.show(text)
        async with AsyncExitStack() as stack:
            chosen = [arm for arm in arms(cell, server.url, prompts) if arm.name in wanted]
            for arm in chosen:
                await stack.enter_async_context(arm.sender)
            measured = await measure(cell, chosen, context.seed, server, model)
        found.append({"way": name} | measured)
        context.advance(text)
    return found


def write_config(folder: Path, target: Target, way: Way) -> Path:
    """The target's settings with this way of decoding."""
    settings = yaml.safe_load(target.config.read_text(encoding="utf-8"))
    for setting, value in (("model", "source"), ("adapters", "root")):  # relative to where the file is
        settings[setting][value] = str((target.config.parent / settings[setting][value]).resolve())
    settings["engine"]["decoding"] = way.decoding
    if way.drafts:
        settings["engine"]["max_drafts"] = way.drafts
    path = folder / f"{way.decoding}-{way.drafts}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def pass_cost(base: Path) -> dict[str, float]:
    """Bytes that a pass reads, and FLOP of a prompt's token, for a model in bfloat16 in this folder."""
    model = load_model(str(base))
    return {"weight_bytes": model.read_bytes(QUANTISATIONS["bf16"]), "flop_a_token": model.flop_a_token}
