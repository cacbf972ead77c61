"""What ``dear plan`` calculates for this machine, and what a server on it does.

Calibrated at 20 passages: forward passes a passage, and the host's time of a pass, of a window in a pass,
and of a request. Everything at other lengths is predicted from that, the model's config, its tokenizer, and
this machine's rates of reading and multiplying.
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.machine_rates import Rates, machine_rates
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.sizing.engine import Engine
from dear_serving.sizing.figures import Efficiency, Gpu, Host, load_figures
from dear_serving.sizing.model import QUANTISATIONS, load_model
from dear_serving.sizing.workload import Workload, workload
from dear_serving.types import RankTask
from dear_tools.load.lengths import Lengths
from dear_tools.load.lists import InventedLists, List
from tests.conftest import ROOT

logger = logging.getLogger(__name__)

WORDS = 12
CALLERS = 8
PASSAGES = (5, 10, 20, 30, 40)
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
        settings=figures.engine.model_copy(update={"working_gb": 0.0, "max_num_seqs": CALLERS}),
        max_model_len=_MAX_MODEL_LEN,
    )


def calibrated(engine: Engine, work: Workload, alone: Answer, full_s: float) -> Engine:
    """The engine with the passes that were counted, and the host's times.

    From a request alone: seconds a pass, and a request around the engine. From ``full_s``, requests/s of a
    full server: seconds of each window in a pass. The gateway has no cores of its own here, so that its time
    is the engine's.
    """
    settings = engine.settings.model_copy(update={"passes_a_passage": alone.passes / work.choices})
    bare = replace(engine, settings=settings)
    request_s = max(0.0, alone.whole_s - alone.engine_s)
    windows = bare.batch(work)
    one_s = (alone.engine_s - bare.alone_s(work)) / alone.passes  # a pass with a window
    shared_s = (1 / full_s - request_s - bare.busy_s(work)) / alone.passes  # a window's part of a full pass
    window_pass_s = min(max(0.0, (shared_s * windows - one_s) / (windows - 1)), max(0.0, one_s))
    host = Host(
        runner_s=max(0.0, one_s - window_pass_s),
        output_s=0,
        window_pass_s=window_pass_s,
        token_s=0,
        request_s=request_s,
        busy_s=request_s,
    )
    return replace(bare, host=host)


def requests_s(url: str, model: str, passages: int, requests: int, folder: Path) -> float:
    """Requests/s of a full server, as ``dear load`` measures it."""
    command = [
        sys.executable,
        "-m",
        "dear_serving",
        "load",
        "--callers",
        str(CALLERS),
        "--requests",
        str(requests),
    ]
    command += [
        "--duration",
        "5m",
        "--warmup",
        "0",
        "--passages",
        str(passages),
        "--words",
        str(WORDS),
        "--model",
        model,
    ]
    done = subprocess.run(
        [*command, "--out", str(folder), "--json"],
        env=os.environ | {"DEAR_BASE_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["summary"]["ok_per_s"])


def compare(
    url: str,
    model: str,
    base: Path,
    *,
    slots: int,
    rounds: int,
    lists_alone: int,
    full_passages: Sequence[int],
    full_requests: int,
    folder: Path,
) -> dict[str, float]:
    """Predicted over measured: latency of a request alone by passages, and requests/s of a full server.

    What else the machine does can only slow it down: of rates the best counts, of latencies the median.

    Args:
        rounds: in each the rates, ``lists_alone`` of each length alone, and ``full_requests`` of each of
            ``full_passages`` that fill the server.
    """
    every_rate, alone_of, full_of = [], defaultdict(list), defaultdict(list)
    makers = {passages: lists(passages, seed=passages) for passages in PASSAGES}
    with httpx.Client(base_url=url, timeout=120) as http:
        for passages in PASSAGES:
            ask(http, model, makers[passages].next())
        for number in range(rounds):
            every_rate.append(machine_rates())
            for _ in range(lists_alone):
                for one in PASSAGES:
                    alone_of[one].append(ask(http, model, makers[one].next()))
            for one in full_passages:
                report = folder / f"{number}-{one}"
                full_of[one].append(requests_s(url, model, one, full_requests, report))
    rates = Rates(
        every_rate[0].device, max(one.bytes_s for one in every_rate), max(one.flop_s for one in every_rate)
    )
    alone = {one: median(answers) for one, answers in alone_of.items()}
    full = {one: max(rounds_s) for one, rounds_s in full_of.items()}

    work = {one: asked_of(base, one) for one in PASSAGES}
    engine = calibrated(engine_here(base, rates, slots), work[AT], alone[AT], full[AT])
    logger.info("%s; calibrated at %d passages: %s", rates, AT, engine.host)
    found = {}
    for one in PASSAGES:
        found[f"{one} alone"] = engine.alone_s(work[one]) / alone[one].whole_s
        floor_s = engine.floor_s(work[one])
        logger.info("%d: %s, floor %.3f s, predicted x %.2f", one, alone[one], floor_s, found[f"{one} alone"])
    for one in full_passages:
        found[f"{one} full"] = 1 / engine.busy_s(work[one]) / full[one]
        logger.info("%d: %.1f requests/s, predicted x %.2f", one, full[one], found[f"{one} full"])
    return found
