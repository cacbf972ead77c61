"""What a batch pays for mixing adapters: 1, 4 and 16 of them in rotation inside one burst."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import yaml

from benchmarks.context import Context
from benchmarks.load import closed_loop, reranks
from benchmarks.plots import grouped_bars, panels, reference_line, save
from benchmarks.quartiles import Quartiles, pairwise_ratios, quartiles
from benchmarks.report_types import Claim, Table
from benchmarks.target import Target
from benchmarks.workloads import Lists
from dear_client import RerankOptions
from dear_tools.load.sender import Sender

NAME = "adapters"
TITLE = "Many adapters in one batch"

LOADED = 16
ROTATIONS = (0, 1, 4, 16)  # adapters in rotation; 0 is the base model
CALLERS = 32
PASSAGES = 20
PASSAGE_TOKENS = 8
OPTIONS: RerankOptions = {"scoring": "permutation", "strategy": "single"}


def steps(quick: bool) -> int:
    """One a round."""
    return _rounds(quick)


def _rounds(quick: bool) -> int:
    return 1 if quick else 5


def write_config(folder: Path, loaded: int, target: Target) -> Path:
    """The target's settings with ``loaded`` copies of its adapter, all of which fit into one batch.

    vLLM knows adapters by their names, so that copies are as different to it as trained ones.
    """
    data = yaml.safe_load(target.config.read_text(encoding="utf-8"))
    root = target.config.parent
    names = adapter_names(target.model, loaded)
    for name in names:
        shutil.copytree(target.adapter, folder / "copies" / name, dirs_exist_ok=True)
    data["model"]["source"] = str((root / data["model"]["source"]).resolve())
    data["adapters"] = {
        "root": str(folder / "copies"),
        "serve": [{"name": name, "path": name} for name in names],
    }
    data["engine"]["engine_kwargs"]["max_loras"] = loaded
    path = folder / f"adapters-{loaded}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def adapter_names(model: str, count: int) -> list[str]:
    """The copies' public names."""
    return [f"{model}-{number:02d}" for number in range(1, count + 1)]


def run(context: Context) -> dict[str, Any]:
    """One server holds all adapters; the rotations are measured in turn on it."""
    config = write_config(context.scratch, LOADED, context.target)
    server = context.server(config)
    base = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["id"]
    result = asyncio.run(_run(context, server.url, base))
    context.stop_server()
    return result | {"config": config.read_text(encoding="utf-8")}


async def _run(context: Context, url: str, base: str) -> dict[str, Any]:
    lists = Lists(context.seed, PASSAGE_TOKENS)
    measured: dict[str, list[dict[str, Any]]] = {str(rotation): [] for rotation in ROTATIONS}
    async with reranks(url, OPTIONS) as sender:
        await _burst(sender, [base, *adapter_names(context.target.model, LOADED)], lists, LOADED + 1)
        for round_ in range(_rounds(context.quick)):
            for rotation in ROTATIONS if round_ % 2 == 0 else reversed(ROTATIONS):
                context.show(f"{NAME}: {rotation} in rotation, {CALLERS} callers")
                models = adapter_names(context.target.model, rotation) or [base]
                measured[str(rotation)].append(await _burst(sender, models, lists, CALLERS))
            context.advance(f"{NAME}: round {round_ + 1}")
    return {
        "passages": PASSAGES,
        "callers": CALLERS,
        "copied": context.target.model,
        "loaded": LOADED,
        "source": lists.source,
        "rotations": measured,
    }


async def _burst(sender: Sender, models: list[str], lists: Lists, requests: int) -> dict[str, Any]:
    """All requests at once, the models in turn."""
    load = await closed_loop(sender, lists.take(requests, PASSAGES), requests, models)
    return {
        "wall_s": load.wall_s,
        "latencies_ms": load.latencies_ms,
        "prompt_tokens": [record.prompt_tokens for record in load.records],
    }


def lists_per_s(result: dict[str, Any], rotation: int) -> list[float]:
    """Throughput of each round."""
    return [len(one["latencies_ms"]) / one["wall_s"] for one in result["rotations"][str(rotation)]]


def against_one(result: dict[str, Any], rotation: int) -> Quartiles:
    """Throughput over that of one adapter in the same round."""
    return quartiles(pairwise_ratios(lists_per_s(result, rotation), lists_per_s(result, 1)))


def tables(result: dict[str, Any]) -> list[Table]:
    """One row a rotation."""
    rows = []
    for rotation in ROTATIONS:
        latencies_ms = [value for one in result["rotations"][str(rotation)] for value in one["latencies_ms"]]
        throughput = quartiles(lists_per_s(result, rotation))
        relative = against_one(result, rotation).text(2, "x")
        row = (_name(rotation), throughput.text(2), quartiles(latencies_ms).text(0), relative)
        rows.append(row)
    rounds = result["rotations"]["1"]
    tokens = quartiles([count for one in rounds for count in one["prompt_tokens"]]).median
    note = (
        f"{result['callers']} lists of {result['passages']} passages ({tokens:.0f} prompt tokens) at once, "
        f"adapters in rotation, {len(rounds)} rounds; {result['source']}. One server holds "
        f"{result['loaded']} copies of `{result['copied']}` under names of their own "
        f"(`max_loras: {result['loaded']}`) and serves every row; the base model takes no adapter."
    )
    columns = ("in the burst", "requests/s", "latency, ms", "throughput against one adapter")
    return [Table("Throughput by adapters in rotation", note, columns, tuple(rows))]


def claims(result: dict[str, Any]) -> list[Claim]:
    """Mixing costs little."""
    text = f"throughput of {LOADED} adapters in rotation against one, {CALLERS} callers"
    return [Claim(text, against_one(result, LOADED).median, "x", 0.85)]


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Throughput by rotation."""
    figure, (axes,) = panels(1)
    figures = [quartiles(lists_per_s(result, rotation)) for rotation in ROTATIONS]
    grouped_bars(axes, [_name(rotation) for rotation in ROTATIONS], {"throughput": figures}, digits=1)
    reference_line(axes, 0.85 * figures[1].median, "0.85 of\n1 adapter")
    axes.set_title(f"Throughput by adapters in one burst of {result['callers']} lists")
    axes.set_ylabel(f"requests/s, lists of {result['passages']} (quartiles)")
    return [save(figure, folder / "adapters_throughput.png")]


def _name(rotation: int) -> str:
    if rotation == 0:
        return "base model"
    return "1 adapter" if rotation == 1 else f"{rotation} adapters"
