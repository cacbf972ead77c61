"""Engines that come and go with the work, on a server of the test's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dear_client import AsyncClient, Timeout
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1200)]
logger = logging.getLogger(__name__)

SCALING = {
    "min_replicas": 0,
    "max_replicas": 2,
    "tokens_per_replica": 4000,
    "upscale_delay_s": 2,
    "downscale_delay_s": 10,
    "to_zero_delay_s": 10,
}
DOCUMENTS = [f"passage {number} of a list about parking permits" for number in range(20)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose engines scale from none to two, and are looked at every second."""
    for kind in ("REPLICA", "HANDLE"):
        monkeypatch.setenv(f"RAY_SERVE_{kind}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    config["engine"] |= {"replicas": 1, "autoscaling": SCALING, "wake_timeout_s": 300}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with Server(tmp_path / "config.yaml", tmp_path / "output.log") as running:
        yield running


async def test_engines_follow_the_work_and_no_request_is_lost(server: Server) -> None:
    seen: list[tuple[float, float]] = []
    outcomes: Counter[str] = Counter()
    began_s = time.monotonic()

    async def watch() -> None:
        async with httpx.AsyncClient(base_url=server.url) as http:
            while True:
                text = (await http.get("/metrics")).text
                count = next(line for line in text.splitlines() if line.startswith("dear_engines "))
                seen.append((time.monotonic() - began_s, float(count.split()[1])))
                await asyncio.sleep(1)

    async def reach(count: int, timeout_s: float) -> float:
        async with asyncio.timeout(timeout_s):
            while not seen or seen[-1][1] != count:  # noqa: ASYNC110 - the metrics tell nobody
                await asyncio.sleep(0.5)
        return time.monotonic() - began_s

    async def call(client: AsyncClient, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                await client.rerank("parking", DOCUMENTS, model="legal")
                outcomes["answered"] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1

    watching = asyncio.create_task(watch())
    async with AsyncClient(server.url, timeout=Timeout(answer_s=300, total_s=300)) as client:
        await client.rerank("parking", DOCUMENTS, model="legal")
        idle_s = await reach(0, 180)
        since_s = time.monotonic()
        await client.rerank("parking", DOCUMENTS, model="legal")
        first_s = time.monotonic() - since_s
        done = asyncio.Event()
        callers = [asyncio.create_task(call(client, done)) for _ in range(24)]
        two_s = await reach(2, 300)
        await asyncio.sleep(10)
        done.set()
        await asyncio.gather(*callers)
        none_s = await reach(0, 180)
    watching.cancel()
    logger.info(
        "no engine after %.0f s; first request from none %.0f s; two engines at %.0f s; none at %.0f s; %s",
        idle_s,
        first_s,
        two_s,
        none_s,
        dict(outcomes),
    )
    logger.info("engines over time: %s", [(round(at_s), count) for at_s, count in seen[::5]])
    assert outcomes.keys() == {"answered"}
