"""A gateway that is about to end: not ready at once, closed to new requests a little later."""

from __future__ import annotations

import httpx

from dear_serving.gateway.state import GatewayState

BODY = {"query": "q", "documents": ["a", "b"]}


async def test_it_is_not_ready_and_still_serves(gateway: GatewayState, http: httpx.AsyncClient) -> None:
    assert (await http.get("/ready")).status_code == 200
    gateway.drain.begin(60)
    not_ready = await http.get("/ready")
    assert not_ready.status_code == 503
    assert not_ready.json()["error"]["code"] == "shutting_down"
    assert not_ready.headers["retry-after"] == "1"
    assert (await http.get("/health")).status_code == 200
    assert (await http.post("/v2/rerank", json=BODY)).status_code == 200


async def test_then_it_sends_new_requests_elsewhere(gateway: GatewayState, http: httpx.AsyncClient) -> None:
    gateway.drain.begin(0)
    gateway.drain.begin(60)  # the first call counts
    reply = await http.post("/v2/rerank", json=BODY)
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "shutting_down"
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["connection"] == "close"
    assert (await http.get("/health")).status_code == 200
