"""One tenant's bodies take neither much memory nor the others' time, measured at a gateway's own process."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fake_server import SMALL_BUDGET, FakeServer, LongestWait, fake_server

pytestmark = [pytest.mark.attack, pytest.mark.integration]
logger = logging.getLogger(__name__)

MB = 1_000_000
MOST_MEMORY = 20  # times the body
FREE_BYTES = 20 * MB  # what any request may take: prompts of 256 open windows, buffers, pools of threads
LONGEST_S = 0.1
ATTEMPTS = 3  # a busy machine makes everyone wait now and then
SHORT = [f"{number}" for number in range(1000)]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    """One server for all; its worker process runs already."""
    with fake_server() as running:
        with running.client() as http:
            assert rerank(http, body_of(["a" * 300_000, "b"])).status_code == 200
        yield running


def rerank(http: httpx.Client, body: bytes) -> httpx.Response:
    return http.post("/v2/rerank", content=body, headers={"content-type": "application/json"})


def body_of(documents: Any, **options: Any) -> bytes:
    return json.dumps({"query": "q", "documents": documents, **options}).encode()


def longest_s() -> float:
    """How long others may wait; longer where more processes want to run than there are processors."""
    return LONGEST_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


LISTS: list[list[int]] = [[]] * 240_000
HOSTILE: dict[str, tuple[bytes, int]] = {
    "one document, 10,000 rank_fields": (
        body_of([{"f": "x" * 100_000}], rank_fields=["f"] * 10_000),
        400,
    ),
    "31 MB of spaces": (body_of([" " * 31_000] * 1000), 200),
    "31 MB of words": (body_of([f"{n} " + "all or nothing; " * 1_930 for n in range(1000)]), 200),
    "31 MB of numbers in brackets": (body_of([f"{n} " + "[3] " * 7_700 for n in range(1000)]), 200),
    "18 MB of single characters": (body_of([f"{n}" + "~\u00e9" * 2_600 for n in range(1000)]), 200),
    "31 MB that come back": (
        body_of([f"{n}" + "y" * 31_000 for n in range(1000)], return_documents=True),
        200,
    ),
    "31 MB of lists that come back": (
        body_of(
            ["y" * 990_000] * 30 + [{"text": "a", "x": LISTS}],
            return_documents=True,
            rank_fields=["text"],
        ),
        200,
    ),
    "31 MB of lists to be read": (body_of(["y" * 990_000] * 30 + [{"text": "a", "x": LISTS}]), 400),
    "small objects": (
        body_of([{"title": f"{n}", "tags": ["a", "b"], "x": {"y": n}} for n in range(1000)]),
        200,
    ),
    "a query of a million brackets": (
        json.dumps({"query": "[3" * 500_000, "documents": ["a", "b"]}).encode(),
        200,
    ),
    "31 MB of numbers": (b"[" + b"1," * (31 * MB // 2) + b"1]", 400),
    "31 MB of lists": (b'{"query": "q", "x": [' + b"[]," * (31 * MB // 3) + b"1]}", 400),
    "31 MB of backslashes": (b'{"query": "' + b"\\\\" * (31 * MB // 2) + b'", "documents": [[[', 400),
    "deep JSON": (b"[" * (10 * MB) + b"]" * (10 * MB), 400),
    "a small body of lists": (b'{"query": "q", "documents": [' + b"[]," * 80_000 + b'""]}', 400),
    "windows of two in 16 passes": (
        body_of(SHORT, dear={"strategy": "joint", "window_size": 2, "passes": 16}),
        400,
    ),
    "16 passes": (body_of(SHORT, dear={"strategy": "joint", "passes": 16}), 200),
    "a step of 1": (body_of(SHORT, dear={"strategy": "sliding", "step": 1}), 200),
    "free text of 384 windows": (
        body_of(SHORT, dear={"strategy": "joint", "scoring": "generate", "window_size": 8}),
        200,
    ),
}


@pytest.mark.parametrize(("body", "status"), HOSTILE.values(), ids=HOSTILE.keys())
def test_others_are_answered_and_memory_is_bounded_while_a_hostile_body_is_worked_on(
    server: FakeServer, body: bytes, status: int
) -> None:
    waited_s = []
    for _ in range(ATTEMPTS):
        server.reset_peak()
        before = server.peak_bytes()
        with server.client() as http, LongestWait(server) as health:
            reply = rerank(http, body)
        taken = server.peak_bytes() - before
        assert reply.status_code == status, reply.text[:1000]
        assert health.statuses == {200}
        assert taken < MOST_MEMORY * len(body) + FREE_BYTES
        waited_s.append(health.s)
        logger.info("health %.0f ms, memory %.1f MB", health.s * 1e3, taken / MB)
        if health.s < longest_s():
            return
    pytest.fail(f"/health took {waited_s} s")


@pytest.mark.parametrize("name", ["31 MB of spaces", "31 MB of numbers in brackets", "16 passes"])
def test_another_tenants_rerank_is_not_held_up(server: FakeServer, name: str) -> None:
    body = {"query": "q", "documents": ["a", "b", "c"]}
    waited_s = []
    for _ in range(ATTEMPTS):
        with server.client() as http, LongestWait(server, "/v2/rerank", body) as others:
            assert rerank(http, HOSTILE[name][0]).status_code == 200
        assert others.statuses == {200}
        waited_s.append(others.s)
        if others.s < 2 * longest_s():
            return
    pytest.fail(f"another tenant waited {waited_s} s")


@pytest.mark.parametrize("name", ["31 MB of spaces", "31 MB of words", "16 passes"])
def test_who_cannot_pay_is_refused_at_once(server: FakeServer, name: str) -> None:
    with server.client(SMALL_BUDGET) as http, LongestWait(server) as health:
        reply = rerank(http, HOSTILE[name][0])
    assert reply.status_code == 413
    assert "this request is worth at least" in reply.json()["message"]
    assert reply.elapsed.total_seconds() < 20 * longest_s()
    assert health.s < 3 * longest_s()


def test_the_watch_shows_how_long_the_loop_was_blocked(server: FakeServer) -> None:
    with server.client() as http:
        text = http.get("/metrics").text
    assert "dear_loop_blocked_seconds_bucket" in text
    count = next(line for line in text.splitlines() if line.startswith("dear_loop_blocked_seconds_count"))
    assert float(count.split()[1]) > 0
