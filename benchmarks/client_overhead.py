"""What the client library costs beside bare httpx: python -m benchmarks.client_overhead [--quick]

Against benchmarks/trivial_server.py in a process of its own, so that the clients' own work is what shows.
Every figure is a median over pairs that take turns in one run: one call, or one batch, with httpx alone (the
same body, the reply parsed as JSON), then the same with the client. Prints JSON: the figures, the targets,
machine and versions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from statistics import median
from typing import Any

import httpx

from benchmarks.environment import environment
from benchmarks.server import ROOT
from dear_client import AsyncClient, Client, Ranking, RerankRequest

DOCUMENTS = [f"passage {number}: what it says of parking permits and their price" for number in range(10)]
QUERY = "parking permit"
BODY = {"query": QUERY, "documents": DOCUMENTS}
CONCURRENCY = 8
MOST_OVERHEAD_MS = 1.0
LEAST_RATIO = 0.95


@contextmanager
def trivial_server(*options: str) -> Iterator[str]:
    """The URL of a trivial server that runs inside the ``with``."""
    command = [sys.executable, "-m", "benchmarks.trivial_server", "--port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def paired(bare: Callable[[], object], ours: Callable[[], object], pairs: int) -> list[tuple[float, float]]:
    """Seconds of both, taking turns; who is first changes from pair to pair."""

    def seconds(work: Callable[[], object]) -> float:
        started_s = time.perf_counter()
        work()
        return time.perf_counter() - started_s

    for _ in range(3):  # connections, caches
        bare()
        ours()
    gc.collect()
    found = []
    for number in range(pairs):
        if number % 2:
            later = seconds(ours)
            found.append((seconds(bare), later))
        else:
            found.append((seconds(bare), seconds(ours)))
    return found


def overhead_ms(times: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of both sides and of the difference within a pair, milliseconds."""
    return {
        "httpx_ms": round(1e3 * median(bare for bare, _ in times), 3),
        "client_ms": round(1e3 * median(ours for _, ours in times), 3),
        "overhead_ms": round(1e3 * median(ours - bare for bare, ours in times), 3),
    }


def throughput(times: list[tuple[float, float]], requests: int) -> dict[str, float]:
    """Requests/s of both sides, and the median of their ratio within a pair."""
    return {
        "httpx_per_s": round(requests / median(bare for bare, _ in times), 1),
        "client_per_s": round(requests / median(ours for _, ours in times), 1),
        "ratio": round(median(bare / ours for bare, ours in times), 3),
    }


def blocking(url: str, calls: int) -> list[tuple[float, float]]:
    """One call at a time with the blocking client."""
    with httpx.Client(base_url=url) as http, Client(url) as client:
        return paired(
            lambda: http.post("/v2/rerank", json=BODY).json(), lambda: client.rerank(QUERY, DOCUMENTS), calls
        )


def on_asyncio(url: str, calls: int) -> list[tuple[float, float]]:
    """One call at a time with the asyncio client."""
    with asyncio.Runner() as runner:
        http, client = httpx.AsyncClient(base_url=url), AsyncClient(url)

        async def bare() -> object:
            return (await http.post("/v2/rerank", json=BODY)).json()

        async def ours() -> object:
            return await client.rerank(QUERY, DOCUMENTS)

        times = paired(lambda: runner.run(bare()), lambda: runner.run(ours()), calls)
        runner.run(http.aclose())
        runner.run(client.close())
        return times


def many_blocking(url: str, requests: int, pairs: int) -> list[tuple[float, float]]:
    """``rerank_many`` beside a pool of threads that share one httpx client."""
    work: list[RerankRequest] = [{"query": QUERY, "documents": DOCUMENTS}] * requests
    with httpx.Client(base_url=url) as http, Client(url) as client:

        def bare() -> None:
            with ThreadPoolExecutor(CONCURRENCY) as pool:
                list(pool.map(lambda one: http.post("/v2/rerank", json=one).json(), work))

        return paired(
            bare, lambda: all_ranked(client.rerank_many(work, concurrency=CONCURRENCY), requests), pairs
        )


def many_on_asyncio(url: str, requests: int, pairs: int) -> list[tuple[float, float]]:
    """``rerank_many`` beside as many tasks that share one httpx client."""
    work: list[RerankRequest] = [{"query": QUERY, "documents": DOCUMENTS}] * requests
    with asyncio.Runner() as runner:
        http, client = httpx.AsyncClient(base_url=url), AsyncClient(url)

        async def bare() -> None:
            waiting = iter(work)

            async def caller() -> None:
                for one in waiting:
                    (await http.post("/v2/rerank", json=one)).json()

            await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

        async def ours() -> None:
            all_ranked(await client.rerank_many(work, concurrency=CONCURRENCY), requests)

        times = paired(lambda: runner.run(bare()), lambda: runner.run(ours()), pairs)
        runner.run(http.aclose())
        runner.run(client.close())
        return times


def all_ranked(found: list[Any], requests: int) -> None:
    """Nobody is faster for having failed."""
    assert len(found) == requests
    assert all(isinstance(one, Ranking) for one in found)


def measure(calls: int, requests: int, pairs: int) -> dict[str, Any]:
    """All figures."""
    figures: dict[str, Any] = {}
    with trivial_server() as url:
        figures["one_call"] = {
            "blocking": overhead_ms(blocking(url, calls)),
            "asyncio": overhead_ms(on_asyncio(url, calls)),
        }
        figures["rerank_many_answered_at_once"] = {
            "blocking": throughput(many_blocking(url, requests, 3 * pairs), requests),
            "asyncio": throughput(many_on_asyncio(url, requests, 3 * pairs), requests),
        }
    with trivial_server("--delay-ms", "20") as url:
        figures["rerank_many_answered_after_20_ms"] = {
            "blocking": throughput(many_blocking(url, requests, pairs), requests),
            "asyncio": throughput(many_on_asyncio(url, requests, pairs), requests),
        }
    return figures


def main() -> int:
    """The command line; 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client_overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the same code, fewer pairs")
    quick = parser.parse_args().quick
    at_start = environment()
    figures = measure(calls=100 if quick else 1000, requests=200, pairs=3 if quick else 15)
    met = {
        f"{name}.{kind}": (
            found["overhead_ms"] < MOST_OVERHEAD_MS
            if "overhead_ms" in found
            else found["ratio"] >= LEAST_RATIO
        )
        for name, kinds in figures.items()
        for kind, found in kinds.items()
    }
    report = {
        "figures": figures,
        "targets": {"most_overhead_ms": MOST_OVERHEAD_MS, "least_ratio": LEAST_RATIO, "met": met},
        "settings": {"documents": len(DOCUMENTS), "requests": 200, "concurrency": CONCURRENCY},
        "environment": {name: value for name, value in at_start.items() if name != "config"}
        | {"versions": {name: metadata.version(name) for name in ("httpx", "httpcore", "pydantic", "anyio")}},
    }
    print(json.dumps(report, indent=2))  # noqa: T201 - what it is for
    return int(not all(met.values()))


if __name__ == "__main__":
    sys.exit(main())
