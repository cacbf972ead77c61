"""Keys, health, metrics, OpenAI routes and unknown paths."""

from __future__ import annotations

import dataclasses

import httpx
import pytest

from dear_serving.gateway.authenticator import Authenticator, hash_keys
from dear_serving.gateway.state import GatewayState
from dear_serving.metrics import Metrics, Page
from tests.conftest import client_of
from tests.support.fake_engine import FakeEngine

CHAT = {"model": "legal", "messages": [{"role": "user", "content": "hi"}]}
ASKED = CHAT | {"prompt": "hi"}
"""Either route's body: what a route does not know, it ignores."""


async def test_health_says_the_process_is_up_even_without_engine(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.dead = True
    assert (await http.get("/health")).json() == {"status": "ok"}


async def test_ready_follows_the_engine(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    assert (await http.get("/ready")).status_code == 200
    engine.dead = True
    reply = await http.get("/ready")
    assert reply.status_code == 503
    assert "retry-after" in reply.headers


async def test_metrics_hold_the_gateways_and_the_engines(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    await http.post("/v2/rerank", json={"query": "q", "documents": ["a", "b"]})
    text = (await http.get("/metrics")).text
    assert 'dear_requests_total{route="/v2/rerank",status="200"} 1.0' in text
    assert 'dear_windows_total{revision="dear-tiny",tenant="default"} 1.0' in text
    assert "fake_requests_total 1.0" in text
    engine.dead = True
    assert "dear_windows_total" in (await http.get("/metrics")).text


async def test_metrics_of_the_gateways_that_answer_add_up(gateway: GatewayState) -> None:
    other, asked = Metrics(), []
    other.requests.labels("/v2/rerank", "200").inc(41)
    other.count_request("default", "served")
    other.count_request("acme", "served")

    async def ask(tenant: str | None) -> tuple[list[Page], int]:
        asked.append(tenant)
        return [other.page(tenant), gateway.metrics.page(tenant)], 3

    whole = dataclasses.replace(gateway, ask_gateways=ask)
    authenticator = Authenticator(gateway.tenants, hash_keys(["key"]), open_access=False)
    tenancy = gateway.settings.tenancy.model_copy(update={"open_metrics": False})
    settings = gateway.settings.model_copy(update={"tenancy": tenancy})
    closed = dataclasses.replace(whole, settings=settings, authenticator=authenticator)
    async with client_of(whole) as http:
        await http.post("/v2/rerank", json={"query": "q", "documents": ["a", "b"]})
        text = (await http.get("/metrics")).text
    async with client_of(closed) as http:
        own = (await http.get("/metrics", headers={"authorization": "Bearer key"})).text
    assert asked == [None, "default"]
    assert 'dear_requests_total{route="/v2/rerank",status="200"} 42.0' in text
    assert "dear_gateways 3.0" in text
    assert "dear_gateways_answered 2.0" in text
    assert 'dear_tenant_requests_total{outcome="served",tenant="default"} 2.0' in own
    assert all('tenant="default"' in line for line in own.splitlines() if not line.startswith("#"))


async def test_metrics_of_this_gateway_come_where_serve_knows_none(gateway: GatewayState) -> None:
    async def ask(tenant: str | None) -> tuple[list[Page], int]:
        return [], 2

    async with client_of(dataclasses.replace(gateway, ask_gateways=ask)) as http:
        text = (await http.get("/metrics")).text
    assert "dear_queued_tokens 0.0" in text
    assert "dear_gateways 2.0" in text
    assert "dear_gateways_answered 1.0" in text


async def test_every_stage_and_every_refusal_of_a_request_is_counted(http: httpx.AsyncClient) -> None:
    body = {"query": "q", "documents": ["a", "b"]}
    await http.post("/v2/rerank", json=body)
    await http.post("/v2/rerank", json=body | {"dear": {"stream": True}})
    await http.post("/v1/chat/completions", json=CHAT)
    await http.post("/v2/rerank", json=body | {"documents": []})
    await http.get("/nowhere")
    await http.put("/ready")
    text = (await http.get("/metrics")).text
    for line in (
        "dear_admission_seconds_count 3.0",
        "dear_turn_seconds_count 3.0",
        "dear_first_rank_seconds_count 1.0",
        'dear_request_seconds_count{outcome="served",route="/v2/rerank"} 2.0',
        'dear_request_seconds_count{outcome="refused",route="/v2/rerank"} 1.0',
        'dear_refusals_total{code="invalid_request",status="400"} 1.0',
        'dear_refusals_total{code="route_not_found",status="404"} 1.0',
        'dear_refusals_total{code="method_not_allowed",status="405"} 1.0',
        'dear_refusals_total{code="engine_unavailable",status="503"} 0.0',
    ):
        assert f"{line}\n" in text, line


async def test_unknown_paths_and_models_make_no_new_metric_labels(http: httpx.AsyncClient) -> None:
    for number in range(5):
        assert (await http.get(f"/nowhere/{number}")).status_code == 404
        body = {"query": "q", "documents": ["a"], "model": f"nobody-{number}"}
        assert (await http.post("/v2/rerank", json=body)).status_code == 404
    text = (await http.get("/metrics")).text
    assert 'route="none",status="404"} 5.0' in text
    assert "nobody" not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v2/rerank", 405), ("PUT", "/ready", 405)],
)
async def test_unknown_routes_answer_in_the_same_shape(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["message"] == reply.json()["message"] == reply.json()["detail"]


async def test_models_lists_the_base_first_and_its_adapters(http: httpx.AsyncClient) -> None:
    cards = (await http.get("/v1/models")).json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [
        ("dear-tiny", None),
        ("legal", "dear-tiny"),
        ("medical", "dear-tiny"),
    ]
    assert (await http.get("/v1/models/legal")).json() == cards[1]
    assert (await http.get("/v1/models/nobody")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_openai_calls_reach_the_engine_with_their_model(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.post(path, json=ASKED)
    assert reply.status_code == 200
    assert reply.json()["model"] == "legal"
    without = await http.post(path, json=ASKED | {"model": None})
    assert without.json()["model"] == "dear-tiny"
    streamed = await http.post(path, json=ASKED | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("model", "status"), [("nobody", 404), (5, 400), (["legal"], 400)])
async def test_openai_calls_with_a_wrong_model(http: httpx.AsyncClient, model: object, status: int) -> None:
    reply = await http.post("/v1/chat/completions", json=CHAT | {"model": model})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, "model")


async def test_openai_calls_to_a_dead_engine_are_a_503(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.dead = True
    for stream in (False, True):
        reply = await http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
        assert reply.status_code == 503


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        ("Basic first-key", 401),
        ("first-key", 401),
        ("Bearer first-ke\xff", 401),
        ("Bearer first-key", 200),
        ("bearer second-key", 200),
    ],
)
async def test_keys_guard_every_route_but_health_and_ready(
    gateway: GatewayState, authorization: str | None, status: int
) -> None:
    authenticator = Authenticator(gateway.tenants, hash_keys(["first-key", "second-key"]), open_access=True)
    tenancy = gateway.settings.tenancy.model_copy(update={"open_metrics": False})
    settings = gateway.settings.model_copy(update={"tenancy": tenancy})
    guarded = dataclasses.replace(gateway, settings=settings, authenticator=authenticator)
    headers = {"authorization": authorization.encode("latin-1")} if authorization else {}
    async with client_of(guarded) as http:
        for path in ("/v1/models", "/metrics"):
            assert (await http.get(path, headers=headers)).status_code == status
        body = {"query": "q", "documents": ["a"]}
        reply = await http.post("/v2/rerank", json=body, headers=headers)
        assert reply.status_code == status
        if status == 401:
            assert reply.json()["error"]["type"] == "authentication_error"
            assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/ready"):
            assert (await http.get(path, headers=headers)).status_code == 200


async def test_a_callers_request_id_comes_back_in_the_reply(http: httpx.AsyncClient) -> None:
    body = {"query": "q", "documents": ["a", "b"]}
    named = await http.post("/v2/rerank", json=body, headers={"x-request-id": "trace-42"})
    assert named.json()["id"] == "trace-42"
    odd = await http.post("/v2/rerank", json=body, headers={"x-request-id": "x y\tz"})
    assert odd.json()["id"] != "x y\tz"
