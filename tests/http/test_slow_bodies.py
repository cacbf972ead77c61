"""Bodies that arrive slowly hold no place, and end; measured through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from dear_serving.gateway.state import GatewayState
from dear_serving.http import arrival
from tests.conftest import client_of
from tests.support.fake_server import TENANTS, FakeServer, fake_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.attack

BODY = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()
JSON = {"content-type": "application/json"}
PLACES = 16
ARRIVING = PLACES - PLACES // 16  # the most of one tenant while nobody else needs them


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server(max_requests_in_flight=PLACES) as running:
        yield running


@contextlib.contextmanager
def dripping(server: FakeServer, tenant: str, count: int) -> Iterator[list[socket.socket]]:
    """Requests whose body never comes whole."""
    url = httpx.URL(server.url)
    head = (
        f"POST /v2/rerank HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.keys[tenant]}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    )
    with contextlib.ExitStack() as open_ones:
        sockets = [
            open_ones.enter_context(socket.create_connection((url.host, url.port))) for _ in range(count)
        ]
        for one in sockets:
            one.sendall(head.encode())
        yield sockets


def status_of(connection: socket.socket) -> int:
    found = re.match(rb"HTTP/1.1 (\d+)", connection.recv(100))
    assert found
    return int(found[1])


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    """Those with something to read. Which come first, the server's accepts decide."""
    return select.select(connections, [], [], 0)[0]


def metrics_with(http: httpx.Client, line: str) -> str:
    """The metrics, as soon as they have this line."""
    ends_s = time.monotonic() + 20
    while line not in (metrics := http.get("/metrics").text):
        assert time.monotonic() < ends_s, metrics
        time.sleep(0.05)
    return metrics


@pytest.mark.integration
def test_slow_bodies_hold_no_place_of_another_tenant_nor_of_their_own(server: FakeServer) -> None:
    hog, other = TENANTS
    with dripping(server, hog, 2 * PLACES) as slow, server.client(other) as http:
        assert http.post("/v2/rerank", content=BODY, headers=JSON).status_code == 200
        metrics = metrics_with(http, f"dear_bodies_arriving {ARRIVING:.1f}")
        assert "dear_requests_in_flight 0.0" in metrics
        refused = 2 * PLACES - ARRIVING
        assert eventually(lambda: len(answered(slow)) == refused)
        assert [status_of(one) for one in answered(slow)] == [429] * refused
        with dripping(server, other, 1):  # it found a place to arrive, and the hog has three quarters now
            metrics_with(http, "dear_bodies_arriving 16.0")
    with server.client(hog) as http:
        assert http.post("/v2/rerank", content=BODY, headers=JSON).status_code == 200


async def pieces(*parts: bytes, pause_s: float) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(pause_s)


async def test_a_body_below_the_least_pace_is_a_408(
    gateway: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_BEGIN_S", 0.2)
    async with client_of(gateway) as http:
        slow = pieces(*(bytes([byte]) for byte in BODY), pause_s=0.05)
        reply = await http.post("/v2/rerank", content=slow, headers=JSON)
        assert (reply.status_code, reply.json()["error"]["code"]) == (408, "body_timeout")
        padding = [b" " * 16_384] * 8  # eight seconds' worth: it may take its time
        steady = pieces(*padding, BODY, pause_s=0.05)
        assert (await http.post("/v2/rerank", content=steady, headers=JSON)).status_code == 200
    assert gateway.arrivals.in_flight == gateway.admission.in_flight == 0


async def test_who_has_no_place_need_not_send_a_body(gateway: GatewayState) -> None:
    gateway.admission._max_in_flight = 0
    sent = []

    async def body() -> AsyncIterator[bytes]:
        sent.append(True)
        yield BODY

    async with client_of(gateway) as http:
        assert (await http.post("/v2/rerank", content=body(), headers=JSON)).status_code == 429
    assert sent == []
