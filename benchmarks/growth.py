"""Where a request's time goes as lists and callers grow: queue, prompt, decoding, and everything around."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.context import Context
from benchmarks.load import closed_loop, reranks
from benchmarks.plots import panels, save, stacked_bars
from benchmarks.quartiles import Quartiles, quartiles
from benchmarks.report_types import Claim, Table
from benchmarks.workloads import Lists
from dear_client import AsyncClient, Ranking, RerankOptions, Retry
from dear_client.options import Strategy
from dear_tools.load.lists import List

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "growth"
TITLE = "Where the time goes as lists and callers grow"

MODEL = "legal"
RANKED: RerankOptions = {"scoring": "permutation"}
FIRST_TOKEN: RerankOptions = {"scoring": "first_token"}
PASSAGE_TOKENS = 24
OVERHEAD_LENGTHS = (5, 20)
MAX_OVERHEAD_MS = 15.0
LONG_LIST, MAX_JOINT = 100, 0.45
EMPTY_REQUESTS = 60


@dataclass(frozen=True, slots=True)
class Cell:
    """Lists of ``passages``, ``concurrency`` callers, ``requests`` in all, ``first`` for the prompt alone.

    ``asked`` is the strategy of the requests.
    """

    passages: int
    concurrency: int
    requests: int
    first: int
    asked: Strategy = "auto"


CELLS = (
    Cell(5, 1, 60, 8),
    Cell(10, 1, 10, 8),
    Cell(20, 1, 60, 8),
    Cell(50, 1, 3, 3, "sliding"),
    Cell(50, 1, 3, 3),
    Cell(100, 1, 4, 2, "sliding"),
    Cell(100, 1, 4, 2),
    Cell(20, 4, 12, 8),
    Cell(20, 16, 16, 16),
    Cell(20, 64, 64, 64),
)
QUICK_CELLS = (Cell(5, 1, 6, 2), Cell(20, 1, 6, 2), Cell(50, 1, 1, 1), Cell(20, 4, 4, 4))


def steps(quick: bool) -> int:
    """One a cell."""
    return len(QUICK_CELLS if quick else CELLS)


def run(context: Context) -> dict[str, Any]:
    """Measure every cell on the default server, idle but for us."""
    return asyncio.run(_run(context, context.server().url))


async def _run(context: Context, url: str) -> dict[str, Any]:
    lists = Lists(context.seed + 1, PASSAGE_TOKENS)
    cells = []
    async with AsyncClient(url, retry=Retry(attempts=1)) as client:
        await _answers(url, Cell(20, 1, 1, 0), 1, RANKED, lists)
        empty_ms = [await _empty_ms(client) for _ in range(EMPTY_REQUESTS)]
    for cell in QUICK_CELLS if context.quick else CELLS:
        text = f"{NAME}: {cell.passages} passages, {cell.concurrency} callers"
        context.show(text)
        cells.append(asdict(cell) | await _measure(cell, url, lists))
        context.advance(text)
    return {"model": MODEL, "source": lists.source, "empty_ms": empty_ms, "cells": cells}


async def _measure(cell: Cell, url: str, lists: Lists) -> dict[str, Any]:
    ranked = await _answers(url, cell, cell.requests, {**RANKED, "strategy": cell.asked}, lists)
    # The strategy that ranked, so that as many prompts are read.
    options: RerankOptions = {**FIRST_TOKEN, "strategy": ranked[0]["strategy"]}
    first = await _answers(url, cell, cell.first, options, lists)
    return {"ranked": ranked, "first_token": first}


async def _answers(
    url: str, cell: Cell, requests: int, options: RerankOptions, lists: Lists
) -> list[dict[str, Any]]:
    strategies: list[str] = []

    def keep(asked: List, ranking: Ranking) -> None:
        assert ranking.details is not None
        strategies.append(ranking.details.strategy)

    async with reranks(url, options, keep) as sender:
        load = await closed_loop(sender, lists.take(requests, cell.passages), cell.concurrency, [MODEL])
    (strategy,) = set(strategies)  # lists of one length are ranked alike
    return [
        {
            "wall_ms": record.service_s * 1e3,
            "queue_ms": record.queue_ms,
            "engine_ms": record.engine_ms,
            # Too small where windows ran at once: the slowest in the queue need not be the slowest in the
            # engine.
            "rest_ms": record.service_s * 1e3 - record.queue_ms - record.engine_ms,
            "prompt_tokens": record.prompt_tokens,
            "windows": record.windows,
            "strategy": strategy,
        }
        for record in load.records
    ]


async def _empty_ms(client: AsyncClient) -> float:
    """A request that no engine sees: the client, Serve's proxy and the gateway."""
    started_s = time.perf_counter()
    await client.health()
    return (time.perf_counter() - started_s) * 1e3


def overhead_ms(cell: dict[str, Any]) -> Quartiles:
    """What a caller waits beyond the engine's own time."""
    return quartiles([answer["rest_ms"] for answer in cell["ranked"]])


def parts_ms(cell: dict[str, Any]) -> dict[str, float]:
    """Means over the middle half of the requests by wall time, so that they add up and no outlier decides.

    The prompt's part is the engine time of one-pass requests. Where windows ran at once, the slowest in the
    queue and the slowest in the engine may together exceed the wall time: the queue's part is cut then.
    """
    ranked = sorted(cell["ranked"], key=lambda answer: float(answer["wall_ms"]))
    middle = ranked[len(ranked) // 4 : len(ranked) - len(ranked) // 4]
    wall_ms, engine_ms, rest_ms = (
        fmean(answer[name] for answer in middle) for name in ("wall_ms", "engine_ms", "rest_ms")
    )
    one_pass_ms = quartiles([answer["engine_ms"] for answer in cell["first_token"]]).median
    prompt_ms, rest_ms = min(engine_ms, one_pass_ms), max(0.0, rest_ms)
    return {
        "queue": wall_ms - engine_ms - rest_ms,
        "prompt (prefill)": prompt_ms,
        "decoding": engine_ms - prompt_ms,
        "client, gateway, Serve": rest_ms,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """Parts of the wall time, and what is added around the engine."""
    return [_parts_table(result), _overhead_table(result)]


def claims(result: dict[str, Any]) -> list[Claim]:
    """The layers around the engine are thin, and rounds are saved where an adapter makes them dear."""
    return [
        Claim(
            f"p50 added by gateway and Serve to the engine's own time, {cell['passages']} passages, idle",
            overhead_ms(cell).median,
            "ms",
            MAX_OVERHEAD_MS,
            at_least=False,
        )
        for cell in _alone(result)
        if cell["passages"] in OVERHEAD_LENGTHS
    ] + _joint_claims(result)


def _joint_claims(result: dict[str, Any]) -> list[Claim]:
    """The target's list length, where both strategies ranked it."""
    wall_ms = {
        cell["ranked"][0]["strategy"]: quartiles([answer["wall_ms"] for answer in cell["ranked"]]).median
        for cell in _alone(result)
        if cell["passages"] == LONG_LIST
    }
    if not {"joint", "sliding"} <= wall_ms.keys():
        return []
    text = f"wall time of joint over sliding's, {LONG_LIST} passages, adapter {MODEL}"
    return [Claim(text, wall_ms["joint"] / wall_ms["sliding"], "x", MAX_JOINT, at_least=False)]


def plot(result: dict[str, Any], folder: Path) -> list[Path]:
    """Stacked parts by list length, and by callers."""
    figure, axes = panels(2)
    alone = _alone(result)
    _stack(axes[0], alone, [f"{cell['passages']}\n{cell['ranked'][0]['strategy']}" for cell in alone])
    axes[0].set_title("Wall time by list length, 1 caller")
    axes[0].set_xlabel("passages in the list, strategy")
    crowd = _crowd(result)
    _stack(axes[1], crowd, [f"{cell['concurrency']}" for cell in crowd])
    axes[1].set_title("Wall time by callers, lists of 20")
    axes[1].set_xlabel("callers at once")
    for one in axes:
        one.set_ylabel("wall time of a request (ms)")
        one.legend(loc="upper left", fontsize=8)
    return [save(figure, folder / "growth_parts.png")]


def _parts_table(result: dict[str, Any]) -> Table:
    rows = []
    for cell in result["cells"]:
        windows = quartiles([answer["windows"] for answer in cell["ranked"]]).median
        tokens = quartiles([answer["prompt_tokens"] for answer in cell["ranked"]]).median
        wall = quartiles([answer["wall_ms"] for answer in cell["ranked"]])
        counts = (cell["concurrency"], windows, tokens, len(cell["ranked"]))
        row = (str(cell["passages"]), cell["ranked"][0]["strategy"], *(f"{one:.0f}" for one in counts))
        rows.append((*row, wall.text(0), *(f"{one:.1f}" for one in parts_ms(cell).values())))
    note = (
        f"Adapter `{result['model']}`, windows of 20, step 10; above 20 passages the sliding window and what "
        f"`auto` chooses; {result['source']}; every request has a new list. Parts are means in ms over "
        "the middle half of the requests by wall time; the prompt's part is the median engine time of "
        "requests that stop after their first token. With many callers, or windows at once, decoding "
        "includes waiting for others' prompts."
    )
    columns = (
        *("passages", "strategy", "callers", "windows", "prompt tokens", "requests"),
        "wall p50 (quartiles), ms",
        *(f"{part}, ms" for part in parts_ms(result["cells"][0])),
    )
    return Table("Parts of the wall time", note, columns, tuple(rows))


def _overhead_table(result: dict[str, Any]) -> Table:
    rows = [
        (f"{cell['passages']} passages", str(len(cell["ranked"])), overhead_ms(cell).text(1))
        for cell in _alone(result)
        if cell["ranked"][0]["windows"] == 1
    ]
    rows.append(("GET /health", str(len(result["empty_ms"])), quartiles(result["empty_ms"]).text(1)))
    note = (
        "One caller, idle server: wall time less the engine's queue and engine times, ms, median "
        "(quartiles). It holds the HTTP client, Serve's proxy, the gateway's prompt building and the hop to "
        "the engine and back. `GET /health` never reaches an engine."
    )
    return Table("Around the engine", note, ("request", "requests", "added, ms"), tuple(rows))


def _alone(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in result["cells"] if cell["concurrency"] == 1]


def _crowd(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in result["cells"] if cell["passages"] == 20]


def _stack(axes: Axes, cells: list[dict[str, Any]], names: list[str]) -> None:
    every = [parts_ms(cell) for cell in cells]
    stacked_bars(axes, names, {part: [one[part] for one in every] for part in every[0]})
