"""Tenants on the real engine: keys, limits, and one tenant's burst beside another's few requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles

import httpx
import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import ADMIN_KEY, Server

pytestmark = pytest.mark.e2e


def dear(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The ``dear`` command, as an administrator of the server runs it."""
    environment = os.environ | {"DEAR_BASE_URL": server.url, "DEAR_ADMIN_KEY": ADMIN_KEY, "COLUMNS": "160"}
    command = [sys.executable, "-m", "dear_serving", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def new_tenant(server: Server, name: str, *options: str) -> dict[str, str]:
    """Authorization of a tenant just made."""
    made = dear(server, "tenants", "create", name, *options, "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(dear(server, "keys", "create", name, "--json").stdout)["key"]
    return {"Authorization": f"Bearer {key}"}


def passages(number: int, count: int = 20) -> dict[str, object]:
    """A list that nobody ranked before."""
    words = ["permit", "parking", "harbour", "void", "court", "price", "garden", "statute"]
    texts = [
        " ".join(words[(number * 7 + rank * 3 + place * place) % 8] for place in range(12))
        + f" {number} {rank}"
        for rank in range(count)
    ]
    return {"model": "legal", "query": f"parking permit {number}", "documents": texts}


def test_the_walk_through_of_the_docs(server: Server) -> None:
    shown = dear(server, "tenants", "create", "walker", "--requests-per-minute", "2", "--weight", "2")
    assert "walker" in shown.stdout
    made = dear(server, "keys", "create", "walker", "--label", "laptop").stdout
    key = next(line for line in made.splitlines() if line.startswith("dear_"))
    headers = {"Authorization": f"Bearer {key}"}
    replies = [httpx.post(f"{server.url}/v2/rerank", json=passages(n, 3), headers=headers) for n in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert 1 <= int(replies[2].headers["retry-after"]) <= 60
    assert dear(server, "tenants", "set", "walker", "--requests-per-minute", "0").returncode == 0
    assert dear(server, "keys", "revoke", key.split("_")[1]).returncode == 0
    time.sleep(1.5)  # gateways remember a key for a second
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 401
    trail = dear(server, "audit", "--limit", "4").stdout
    assert "key.revoke" in trail
    assert key not in trail


def test_what_an_administrator_does_wrong_is_one_sentence(server: Server) -> None:
    twice = [dear(server, "tenants", "create", "twice") for _ in range(2)]
    assert (twice[1].returncode, twice[1].stderr) == (
        1,
        'dear: there is a tenant "twice" already\n',
    )
    environment = {name: value for name, value in os.environ.items() if name != "DEAR_ADMIN_KEY"}
    command = [sys.executable, "-m", "dear_serving", "tenants", "list"]
    keyless = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert keyless.returncode == 1
    assert keyless.stderr == "dear: set DEAR_ADMIN_KEY to the key that the server was started with\n"


async def test_a_tenant_is_answered_before_the_burst_of_another_is(server: Server) -> None:
    """Its requests come after all of the burst: what the engine has is finished first, the rest waits."""
    quiet, loud = new_tenant(server, "considerate"), new_tenant(server, "hasty")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:

        async def rank(number: int, headers: dict[str, str]) -> int:
            return (await http.post("/v2/rerank", json=passages(number), headers=headers)).status_code

        burst = [asyncio.create_task(rank(20_000 + number, loud)) for number in range(200)]
        await asyncio.wait(burst, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.gather(*(rank(21_000 + number, quiet) for number in range(4))) == [200] * 4
        assert sum(task.done() for task in burst) < 150
        assert set(await asyncio.gather(*burst)) == {200}


BURST_REQUESTS = 500
BURST = """
import asyncio, json, sys, httpx
from tests.e2e.test_tenancy import passages

async def main():
    url, headers = sys.argv[1], json.loads(sys.argv[2])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        async def send(number):
            return (await http.post("/v2/rerank", json=passages(number), headers=headers)).status_code
        print(sorted(await asyncio.gather(*(send(10_000 + number) for number in range(int(sys.argv[3]))))))

asyncio.run(main())
"""


@pytest.mark.long
def test_a_burst_does_not_hold_up_another_tenant(server: Server) -> None:
    """Four callers of the quiet tenant rank all the time: alone, then while the burst lasts."""
    quiet, loud = new_tenant(server, "quiet"), new_tenant(server, "loud")
    numbers = itertools.count()

    def rank_until(over: Callable[[], bool]) -> list[float]:
        """Seconds of each request, four callers at a time."""
        taken: list[float] = []

        def caller() -> None:
            with httpx.Client(base_url=server.url, timeout=300) as http:
                while not over():
                    started_s = time.perf_counter()
                    reply = http.post("/v2/rerank", json=passages(next(numbers)), headers=quiet)
                    assert reply.status_code == 200, reply.text
                    taken.append(time.perf_counter() - started_s)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(caller) for _ in range(4)]:
                done.result()
        return taken

    def for_seconds(seconds: float) -> Callable[[], bool]:
        ends_s = time.monotonic() + seconds
        return lambda: time.monotonic() > ends_s

    rank_until(for_seconds(2.0))
    alone = rank_until(for_seconds(8.0))
    command = [sys.executable, "-c", BURST, server.url, json.dumps(loud), str(BURST_REQUESTS)]
    burst = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    beside = rank_until(lambda: burst.poll() is not None)
    assert burst.communicate()[0].strip() == str([200] * BURST_REQUESTS)
    p50 = [median(taken) for taken in (alone, beside)]
    p95 = [quantiles(taken, n=20)[-1] for taken in (alone, beside)]
    said = (
        f"{len(alone)} requests alone: p50 {p50[0]:.2f} s, p95 {p95[0]:.2f} s; "
        f"{len(beside)} beside the burst: p50 {p50[1]:.2f} s, p95 {p95[1]:.2f} s"
    )
    logging.getLogger(__name__).info(said)
    # Without turns it is the whole burst that a request waits for, some 12 s. The target for p95 is 2x on a
    # machine with nothing else to do; whatever else this one does falls on one side of the ratio.
    assert p50[1] <= 2.5 * p50[0], said
    assert p95[1] <= 6 * p95[0], said
