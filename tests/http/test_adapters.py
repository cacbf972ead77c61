"""The adapter routes in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dear_serving.gateway.state import GatewayState
from tests.conftest import LEGAL, client_of
from tests.support.adapters import Engine
from tests.support.fake_engine import FakeEngine

ADMIN = {"authorization": "Bearer root"}
CHAT = [{"role": "user", "content": "hi"}]
BODY = {"query": "q", "documents": ["a", "b", "c"]}


@pytest.fixture
async def http(served: GatewayState) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(served) as client:
        yield client


async def admin(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> httpx.Response:
    return await http.request(method, f"/admin/v1/adapters{path}", json=body, headers=ADMIN)


async def register(http: httpx.AsyncClient, name: str, source: str, **options: Any) -> dict[str, Any]:
    reply = await admin(http, "POST", "", {"name": name, "source": source, **options})
    assert reply.status_code == 201, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def key_of(http: httpx.AsyncClient, tenant: str) -> dict[str, str]:
    await http.post("/admin/v1/tenants", json={"id": tenant}, headers=ADMIN)
    made = await http.post(f"/admin/v1/tenants/{tenant}/keys", json={}, headers=ADMIN)
    return {"authorization": f"Bearer {made.json()['key']}"}


async def test_an_adapters_life(http: httpx.AsyncClient, replica: Engine) -> None:
    key = await key_of(http, "acme")

    async def answering() -> str | None:
        reply = await http.post("/v2/rerank", json=BODY | {"model": "new"}, headers=key)
        return str(reply.json()["meta"]["dear"]["revision"]) if reply.status_code == 200 else None

    first = await register(http, "new", "legal", activate=True)
    assert first["state"] == "active"
    assert await answering() == first["id"]
    second = await register(http, "new", "medical")
    assert (second["state"], await answering()) == ("staged", first["id"])
    digest = second["id"].partition("@")[2]
    active = await admin(http, "POST", "/new/activate", {"revision": digest})
    assert (active.json()["state"], await answering()) == ("active", second["id"])
    back = await admin(http, "POST", "/new/rollback")
    assert (back.json()["id"], await answering()) == (first["id"], first["id"])
    described = (await admin(http, "GET", "/new")).json()
    assert (described["active"], described["previous"]) == (first["id"], second["id"])
    holding = {one["id"]: one["replicas"] for one in described["revisions"]}
    assert holding[first["id"]] == {"replica": "held"}
    retired = (await admin(http, "POST", "/new/retire")).json()
    assert retired["active"] is None
    assert await answering() is None
    async with asyncio.timeout(5):
        while any(name.startswith("new@") for name in replica.loaded):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_stream_goes_on_with_the_revision_it_began_with(
    http: httpx.AsyncClient, engine: FakeEngine, replica: Engine
) -> None:
    """The old revision stays on the engines until the last byte, and goes after it."""
    key = await key_of(http, "acme")
    first = await register(http, "new", "legal", activate=True)
    engine.delay_s = 3.0  # longer than the registration, on a busy machine too
    ranking = asyncio.create_task(http.post("/v2/rerank", json=BODY | {"model": "new"}, headers=key))
    await asyncio.sleep(0.1)
    engine.delay_s = 0.0
    second = await register(http, "new", "medical", activate=True)
    states = {one["id"]: one["state"] for one in (await admin(http, "GET", "/new")).json()["revisions"]}
    assert states == {first["id"]: "draining", second["id"]: "active"}
    await asyncio.sleep(0.2)
    assert first["id"] in replica.loaded
    assert (await ranking).json()["meta"]["dear"]["revision"] == first["id"]
    async with asyncio.timeout(5):
        while first["id"] in replica.loaded:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_revision_for_one_tenant_alone(http: httpx.AsyncClient) -> None:
    acme, other = await key_of(http, "acme"), await key_of(http, "other")
    await register(http, "own", "legal", activate=True, tenants=["acme"])
    await asyncio.sleep(0.02)
    seen = [
        (await http.post("/v2/rerank", json=BODY | {"model": "own"}, headers=key)).status_code
        for key in (acme, other)
    ]
    assert seen == [200, 404]
    assert (await admin(http, "PATCH", "/own", {"shared": True})).json()["shared"]
    assert (await http.post("/v2/rerank", json=BODY | {"model": "own"}, headers=other)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "", {"name": "a b", "source": "legal"}, 400, "name"),
        ("POST", "", {"name": "a@b", "source": "legal"}, 400, "name"),
        ("POST", "", {"name": "dear-tiny", "source": "legal"}, 400, "name"),
        ("POST", "", {"name": "x"}, 400, "source"),
        ("POST", "", {"name": "x", "source": "nothing"}, 400, "source"),
        ("POST", "", {"name": "x", "source": "../.."}, 400, "source"),
        ("POST", "", {"name": "x", "source": "s3://bucket/x"}, 400, "source"),
        ("POST", "", {"name": "x", "source": "legal", "template": "none"}, 400, "template"),
        ("POST", "", {"name": "x", "source": "legal", "template": "../plain"}, 400, "template"),
        ("POST", "", {"name": "x", "source": "legal", "tenants": ["nobody"]}, 404, "tenants"),
        ("POST", "", {"name": "x", "source": "legal", "wait_s": -1}, 400, "wait_s"),
        ("POST", "", {"name": "x", "source": "legal", "colour": "red"}, 400, "colour"),
        ("POST", "", {"name": "legal", "source": "legal", "template": "chat"}, 409, "template"),
        ("POST", "/nobody/activate", {"revision": "0123456789ab"}, 404, "name"),
        ("POST", "/legal/activate", {"revision": "0123456789ab"}, 404, "revision"),
        ("POST", "/legal/activate", {}, 400, "revision"),
        ("POST", "/legal/rollback", None, 404, "name"),
        ("POST", "/nobody/retire", None, 404, "name"),
        ("POST", "/legal/retire", {"revision": "zzzzzzzz"}, 404, "revision"),
        ("PATCH", "/legal", {"shared": "perhaps"}, 400, "shared"),
        ("GET", "/nobody", None, 404, "name"),
        ("GET", "?limit=0", None, 400, "limit"),
    ],
)
async def test_bad_input_is_named_and_changes_nothing(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, param: str
) -> None:
    before = (await admin(http, "GET", "")).json()
    reply = await admin(http, method, path, body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
    assert (await admin(http, "GET", "")).json() == before


@pytest.mark.parametrize("path", ["/admin/v1/adapters", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
async def test_the_admin_key_is_needed(http: httpx.AsyncClient, path: str) -> None:
    key = await key_of(http, "acme")
    for headers in ({}, key):
        assert (await http.post(path, json={}, headers=headers)).status_code == 401


@pytest.mark.integration
async def test_what_an_engine_refuses_fails_with_its_reason(http: httpx.AsyncClient, replica: Engine) -> None:
    digest = LEGAL.partition("@")[2]
    replica.refuses[f"new@{digest}"] = "too odd"
    reply = await admin(http, "POST", "", {"name": "new", "source": "legal", "activate": True})
    assert reply.status_code == 422
    assert reply.json()["message"] == f'"new@{digest}" could not be staged: too odd'
    assert (await admin(http, "GET", "/new")).json()["revisions"][0]["state"] == "failed"
    del replica.refuses[f"new@{digest}"]
    assert (await register(http, "new", "legal", activate=True))["state"] == "active"


async def test_more_than_the_engines_hold_is_refused(http: httpx.AsyncClient, served: GatewayState) -> None:
    served.lifecycle.adapters._capacity = 3
    await register(http, "third", "legal")
    reply = await admin(http, "POST", "", {"name": "fourth", "source": "legal"})
    assert reply.status_code == 409
    assert "hold 3 revisions" in reply.json()["message"]
    assert (await admin(http, "GET", "/fourth")).status_code == 404
    await admin(http, "POST", "/third/retire")
    await register(http, "fourth", "legal")


async def test_vllms_own_paths(http: httpx.AsyncClient) -> None:
    async def post(path: str, **body: Any) -> httpx.Response:
        return await http.post(f"/v1/{path}_lora_adapter", json=body, headers=ADMIN)

    loaded = await post("load", lora_name="theirs", lora_path="legal")
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'theirs' added successfully.")
    again = await post("load", lora_name="theirs", lora_path="legal")
    assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    other = await post("load", lora_name="theirs", lora_path="medical", load_inplace=True)
    assert other.status_code == 200
    assert len((await admin(http, "GET", "/theirs")).json()["revisions"]) == 2
    unloaded = await post("unload", lora_name="theirs")
    assert unloaded.text == "Success: LoRA adapter 'theirs' removed successfully."
    assert (await post("unload", lora_name="nobody")).status_code == 404
    assert (await post("load", lora_name="theirs", lora_path="../..")).status_code == 400


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_replies_name_what_the_caller_asked_for(http: httpx.AsyncClient, stream: bool) -> None:
    key = await key_of(http, "acme")
    body = {"model": "legal", "messages": CHAT, "stream": stream}
    reply = await http.post("/v1/chat/completions", json=body, headers=key)
    assert '"model":"legal"' in reply.text.replace(": ", ":")
    assert "legal@" not in reply.text


async def test_metrics_of_a_revision_go_with_it(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme")

    async def metrics() -> str:
        return (await http.get("/metrics", headers=ADMIN)).text

    first = await register(http, "new", "legal", activate=True)
    for route, body in (("v2/rerank", BODY), ("v1/chat/completions", {"messages": CHAT})):
        assert (await http.post(f"/{route}", json=body | {"model": "new"}, headers=key)).status_code == 200
    text = await metrics()
    labels = f'revision="{first["id"]}",tenant="acme"'
    assert f'dear_model_requests_total{{kind="rerank",{labels}}} 1.0' in text
    assert f'dear_model_requests_total{{kind="chat",{labels}}} 1.0' in text
    assert f"dear_queue_seconds_total{{{labels}}}" in text
    assert f"dear_engine_seconds_total{{{labels}}}" in text
    await register(http, "new", "medical", activate=True)
    assert 'dear_adapter_swaps_total{model="new"} 1.0' in await metrics()
    await admin(http, "POST", "/new/retire")
    async with asyncio.timeout(5):
        while 'new"' in (text := await metrics()) or "new@" in text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
