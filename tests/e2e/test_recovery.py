"""An engine that dies: callers are told at once, and are served again once it is back."""

from __future__ import annotations

import time

import httpx
import pytest

from dear_serving.cli.demo import EXAMPLES
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.e2e, pytest.mark.long]

BODY = {"model": "legal", "query": EXAMPLES[0].query, "documents": EXAMPLES[0].passages}


def test_a_killed_engine_is_a_503_until_it_is_back(server: Server, http: httpx.Client) -> None:
    before = http.post("/v2/rerank", json=BODY)
    assert before.status_code == 200
    replica = next(
        one
        for one in server.descendants()
        if "ServeReplica:dear:Engine" in one.name() + "".join(one.cmdline())
    )
    replica.kill()
    seen: list[int] = []
    deadline_s = time.monotonic() + 150
    while not seen or seen[-1] != 200:
        started_s = time.monotonic()
        reply = http.post("/v2/rerank", json=BODY)
        assert time.monotonic() - started_s < 15
        seen.append(reply.status_code)
        if reply.status_code != 200:
            assert reply.status_code == 503, reply.text
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json()["error"]["type"] == "service_unavailable"
        assert http.get("/health").status_code == 200
        assert time.monotonic() < deadline_s, seen
        time.sleep(0.5)
    assert 503 in seen
    assert http.get("/ready").status_code == 200
    after = http.post("/v2/rerank", json=BODY).json()
    assert after["results"] == before.json()["results"]
