"""Limits and shares over two gateways with a Redis, on a server of the test's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import pytest
import yaml

from dear_client import Client
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import ADMIN_KEY, Server
from tests.support.redis import redis_server

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]
logger = logging.getLogger(__name__)

DOCUMENTS = [f"passage {number} of a list about parking permits" for number in range(10)]
A_MINUTE = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Two gateways before one engine."""
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    config["gateway"] = {"replicas": 2, "cpus": 0}
    with redis_server(tmp_path) as (url, _):
        config["tenancy"] = {"open_metrics": True, "limits_url": url}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {"DEAR_ADMIN_KEY": ADMIN_KEY}
        with Server(tmp_path / "config.yaml", tmp_path / "output.log", environment) as running:
            yield running


async def rerank(http: httpx.AsyncClient, key: str) -> int:
    body = {"query": "parking", "documents": DOCUMENTS, "model": "legal"}
    reply = await http.post("/v2/rerank", json=body, headers={"authorization": f"Bearer {key}"})
    return reply.status_code


@asynccontextmanager
async def flood(http: httpx.AsyncClient, key: str, callers: int) -> AsyncIterator[list[int]]:
    """So many callers without a pause; the statuses they got."""
    statuses: list[int] = []

    async def call() -> None:
        while True:
            statuses.append(await rerank(http, key))
            if statuses[-1] == 429:
                await asyncio.sleep(0.02)

    running = [asyncio.create_task(call()) for _ in range(callers)]
    yield statuses
    for one in running:
        one.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def p95_s(http: httpx.AsyncClient, key: str, count: int) -> float:
    """Of a tenant that asks once at a time."""
    took_s = []
    for _ in range(count):
        began_s = time.monotonic()
        assert await rerank(http, key) == 200
        took_s.append(time.monotonic() - began_s)
    return quantiles(took_s, n=20)[-1]


async def test_limits_hold_over_both_and_a_flood_delays_others_little(server: Server) -> None:
    with Client(server.url, admin_key=ADMIN_KEY) as client:
        admin, keys = client.admin, {}
        limits: dict[str, dict[str, int]] = {
            "quiet": {},
            "flood": {},
            "narrow": {"requests_per_minute": A_MINUTE},
            "few": {"requests_in_flight": 2},
        }
        for name, limit in limits.items():
            admin.create_tenant(name, **limit)
            keys[name] = admin.create_key(name).key
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        await p95_s(http, keys["quiet"], 10)
        alone_s = await p95_s(http, keys["quiet"], 60)
        async with flood(http, keys["flood"], 16):
            await asyncio.sleep(2)
            beside_s = await p95_s(http, keys["quiet"], 60)
        async with flood(http, keys["narrow"], 8) as statuses:
            await asyncio.sleep(20)
        taken = statuses.count(200)
        peak = await most_at_once(http, keys["few"])
    logger.info(
        "quiet tenant's p95 alone %.3f s, beside the flood %.3f s (%.1fx); %d requests of %d a minute; "
        "%d in flight of 2",
        *(alone_s, beside_s, beside_s / alone_s, taken, A_MINUTE, peak),
    )
    assert set(statuses) == {200, 429}
    assert 0.9 * A_MINUTE <= taken <= 1.1 * A_MINUTE
    assert peak == 2


async def most_at_once(http: httpx.AsyncClient, key: str) -> int:
    """How many of twelve long requests at once are taken."""
    body = {"model": "legal", "prompt": "permit", "max_tokens": 200, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    replies = await asyncio.gather(
        *(http.post("/v1/completions", json=body, headers=headers) for _ in range(12))
    )
    return [reply.status_code for reply in replies].count(200)
