"""A cache of 40 blocks, windows and long free text at once: nobody waits for ever, windows wait little."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.server import parse_decoder
from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.relevance import BASE
from dear_serving.types import Decoding
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.long]

logger = logging.getLogger(__name__)

SECONDS = 60
WORDS = ["the", "of", "a", "was", "permit"]
LISTS = list(islice(ranking_lists(3, ListShape(20, 20), True, BASE), 200))


@pytest.mark.parametrize("decoding", ["drafted", "resumable"])
def test_windows_get_through_beside_free_text_that_fills_the_cache(
    config: Path, tmp_path: Path, decoding: Decoding
) -> None:
    data = yaml.safe_load(config.read_text())
    data["adapters"] |= {"root": str(config.parent / "adapters"), "serve": data["adapters"]["serve"][:2]}
    data["ranking"] = {}
    data["engine"]["decoding"] = decoding
    data["engine"]["engine_kwargs"] |= {"num_gpu_blocks_override": 40}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    with Server(tmp_path / "config.yaml", tmp_path / "output.log") as server:
        alone = asyncio.run(windows_and_text(server.url, 0, SECONDS / 2))
        beside = asyncio.run(windows_and_text(server.url, 6, SECONDS))
        metrics = httpx.get(f"{server.url}/metrics").text
        server.check_stop()
    figures = f"alone {describe(alone)}, beside free text {describe(beside)}"
    logger.info("%s: %s", decoding, figures)  # shown by --log-cli-level=INFO
    assert parse_decoder(metrics) == decoding
    assert np.percentile(beside, 95) <= 3 * np.percentile(alone, 95), figures


def describe(seconds: list[float]) -> str:
    p50, p95 = np.percentile(seconds, [50, 95])
    return f"{len(seconds)} windows, p50 {p50:.2f} s, p95 {p95:.2f} s"


async def windows_and_text(url: str, texts: int, seconds: float) -> list[float]:
    """Ten callers of windows and some of free text; the wall time of each window, seconds. None may fail."""
    generator = random.Random(0)
    took: list[float] = []
    ends_s = time.monotonic() + seconds

    async def window(http: httpx.AsyncClient) -> None:
        one = generator.choice(LISTS)
        body = {
            "model": generator.choice(["dear-tiny", "legal", "medical"]),
            "query": one.query,
            "documents": list(one.passages),
            "priority": generator.choice([0, 0, 1, 999]),
        }
        started_s = time.monotonic()
        reply = await http.post("/v2/rerank", json=body)
        took.append(time.monotonic() - started_s)
        assert reply.status_code == 200, reply.text
        assert sorted(result["index"] for result in reply.json()["results"]) == list(range(20))

    async def text(http: httpx.AsyncClient) -> None:
        words = " ".join(generator.choices(WORDS, k=generator.randint(200, 2400)))
        body = {"prompt": words, "max_tokens": 64, "priority": generator.choice([0, 5, 999])}
        reply = await http.post("/v1/completions", json=body)
        assert reply.status_code == 200, reply.text

    async def repeat(call: Callable[[httpx.AsyncClient], Awaitable[None]], http: httpx.AsyncClient) -> None:
        while time.monotonic() < ends_s:
            await call(http)

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await asyncio.gather(
            *(repeat(window, http) for _ in range(10)), *(repeat(text, http) for _ in range(texts))
        )
    return took
