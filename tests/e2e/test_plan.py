"""``dear plan`` against the real engine on this machine: the tiny model, 5 to 40 passages."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from benchmarks.machine_rates import machine_rates
from tests.conftest import ROOT
from tests.e2e.conftest import Server
from tests.support.planned import AT, WORDS, ask, asked_of, calibrated, engine_here, filled, lists, median

pytestmark = pytest.mark.e2e
logger = logging.getLogger(__name__)

BASE = ROOT / "configs" / "demo" / "base"
PASSAGES = (5, 10, 20, 30, 40)
FULL = (5, 20, 40)
ROUNDS = 7
SLOTS = 4  # tests/e2e/conftest.py


def requests_s(server: Server, passages: int, folder: Path) -> float:
    """Requests/s of a full server, as ``dear load`` measures it."""
    command = [sys.executable, "-m", "dear_serving", "load", "--callers", "16", "--duration", "6s"]
    command += ["--warmup", "1s", "--passages", str(passages), "--words", str(WORDS), "--model", "legal"]
    done = subprocess.run(
        [*command, "--out", str(folder / str(passages)), "--json"],
        env=os.environ | {"DEAR_BASE_URL": server.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["summary"]["ok_per_s"])


def test_latency_and_capacity_are_predicted_within_twice(
    server: Server, http: httpx.Client, tmp_path: Path
) -> None:
    rates = machine_rates()
    makers = {passages: lists(passages, seed=passages) for passages in PASSAGES}
    for passages in PASSAGES:
        ask(http, "legal", makers[passages].next())
    # In turn, so that what else this machine does hits all lengths alike.
    answers = [{one: ask(http, "legal", makers[one].next()) for one in PASSAGES} for _ in range(ROUNDS)]
    alone = {one: median([each[one] for each in answers]) for one in PASSAGES}
    full = {one: requests_s(server, one, tmp_path) for one in FULL}

    work = {one: asked_of(BASE, one) for one in PASSAGES}
    engine = calibrated(engine_here(BASE, rates, SLOTS), work[AT], alone[AT])
    engine = filled(engine, work[AT], full[AT])
    logger.info("%s; calibrated at %d passages: %s", rates, AT, engine.host)
    latency = {one: engine.alone_s(work[one]) / alone[one].whole_s for one in PASSAGES}
    capacity = {one: 1 / engine.busy_s(work[one]) / full[one] for one in FULL}
    for passages in PASSAGES:
        logger.info("%d passages: %s, predicted x %.2f", passages, alone[passages], latency[passages])
    for passages in FULL:
        logger.info(
            "%d passages, full: %.1f/s, predicted x %.2f", passages, full[passages], capacity[passages]
        )
    assert all(0.5 < ratio < 2 for ratio in (*latency.values(), *capacity.values())), (latency, capacity)
