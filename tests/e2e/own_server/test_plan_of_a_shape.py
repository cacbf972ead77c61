"""``dear plan`` against the real engine: the shape of a 135M Llama, random weights, 5 to 40 passages."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from benchmarks.machine_rates import machine_rates
from benchmarks.target import of_shape
from tests.e2e.conftest import Server
from tests.support.planned import AT, ask, asked_of, calibrated, engine_here, lists, median

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]
logger = logging.getLogger(__name__)

PASSAGES = (5, 10, 20, 30, 40)
ROUNDS = 3
SLOTS = 8  # the default


def test_latency_is_predicted_within_twice(tmp_path: Path) -> None:
    target, rates = of_shape("135m", tmp_path), machine_rates()
    makers = {passages: lists(passages, seed=passages) for passages in PASSAGES}
    with (
        Server(target.config, tmp_path / "output.log") as server,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        for passages in PASSAGES:
            ask(http, target.model, makers[passages].next())
        answers = [
            {one: ask(http, target.model, makers[one].next()) for one in PASSAGES} for _ in range(ROUNDS)
        ]
    alone = {one: median([each[one] for each in answers]) for one in PASSAGES}
    work = {one: asked_of(target.base, one) for one in PASSAGES}
    engine = calibrated(engine_here(target.base, rates, SLOTS), work[AT], alone[AT])
    logger.info("%s; calibrated at %d passages: %s", rates, AT, engine.host)
    latency = {one: engine.alone_s(work[one]) / alone[one].whole_s for one in PASSAGES}
    for passages in PASSAGES:
        floor_s = engine.floor_s(work[passages])
        logger.info(
            "%d passages: %s, floor %.2f s, predicted x %.2f",
            passages,
            alone[passages],
            floor_s,
            latency[passages],
        )
    assert all(0.5 < ratio < 2 for ratio in latency.values()), latency
