"""What ``dear plan`` calculates for this machine, and what a server on it does.

Calibrated at 20 passages: the host's time of a pass and of a request, forward passes a passage, and how
much slower a full engine is than calculated. Everything at other lengths is predicted from that, the
model's config, its tokenizer, and this machine's rates of reading and multiplying.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.machine_rates import Rates
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.sizing.engine import Engine
from dear_serving.sizing.figures import Efficiency, Gpu, Host, load_figures
from dear_serving.sizing.model import QUANTISATIONS, load_model
from dear_serving.sizing.workload import Workload, workload
from dear_serving.types import RankTask
from dear_tools.load.lengths import Lengths
from dear_tools.load.lists import InventedLists, List

WORDS = 12
AT = 20
"""Passages that the rest is calibrated with: a window."""

_MAX_MODEL_LEN = 4096  # configs/cpu.yaml
_NO_HOST = Host(runner_s=0, output_s=0, window_pass_s=0, token_s=0, request_s=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was alone."""

    whole_s: float
    engine_s: float
    passes: int


def lists(passages: int, seed: int) -> InventedLists:
    """As ``dear load`` invents them, no two alike."""
    length = Lengths("even", passages, passages)
    return InventedLists(length, Lengths("even", WORDS, WORDS), random.Random(seed))


def ask(http: httpx.Client, model: str, asked: List) -> Answer:
    """Rank a list, one request after another."""
    body = {"model": model, "query": asked.query, "documents": list(asked.passages)}
    started_s = time.perf_counter()
    reply = http.post("/v2/rerank", json=body)
    whole_s = time.perf_counter() - started_s
    assert reply.status_code == 200, reply.text
    said = reply.json()["meta"]["dear"]
    return Answer(whole_s, said["engine_ms"] / 1e3, said["passes"])


def median(answers: Sequence[Answer]) -> Answer:
    """The middle of each figure."""
    return Answer(
        statistics.median(one.whole_s for one in answers),
        statistics.median(one.engine_s for one in answers),
        round(statistics.median(one.passes for one in answers)),
    )


def asked_of(base: Path, passages: int) -> Workload:
    """A list of so many passages, as the engine sees it."""
    one = lists(passages, seed=0).next()
    task = RankTask(one.query, one.passages)
    return workload(task, load_template("plain", None), load_tokenizer(str(base)), _MAX_MODEL_LEN)


def engine_here(base: Path, rates: Rates, slots: int) -> Engine:
    """This machine as a card, with the rates that it reached and nothing for the host."""
    figures = load_figures()
    here = Gpu(
        name=rates.device,
        memory_gb=4,
        gb_s=rates.bytes_s / 1e9,
        tflop_s={"bf16": rates.flop_s / 1e12},
        source="benchmarks.machine_rates",
    )
    return Engine(
        gpu=here,
        model=load_model(str(base)),
        quantisation=QUANTISATIONS["bf16"],
        rank=16,
        slots=slots,
        efficiency=Efficiency(compute=1, memory=1, lora=figures.efficiency.lora),
        host=_NO_HOST,
        settings=figures.engine.model_copy(update={"working_gb": 0.0}),
        max_model_len=_MAX_MODEL_LEN,
    )


def calibrated(engine: Engine, work: Workload, alone: Answer) -> Engine:
    """The engine with the host's times, and with the passes that were counted."""
    settings = engine.settings.model_copy(update={"passes_a_passage": alone.passes / work.choices})
    engine = replace(engine, settings=settings)
    pass_s = max(0.0, (alone.engine_s - engine.alone_s(work)) / alone.passes)
    request_s = max(0.0, alone.whole_s - alone.engine_s)
    host = _NO_HOST.model_copy(update={"runner_s": pass_s, "request_s": request_s})
    return replace(engine, host=host)


def filled(engine: Engine, work: Workload, requests_s: float) -> Engine:
    """The engine with the factor by which it was slower when it was full, as ``--measured`` finds it."""
    return replace(engine, slowness=1 / requests_s / engine.busy_s(work))
