"""The admin routes, and what tenants may do once they are made."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.token_admission import TokenAdmission
from dear_serving.ranking.prompts import PromptBuilder
from tests.conftest import client_of, with_rerank
from tests.support.fake_engine import FakeEngine

ADMIN = {"authorization": "Bearer root"}
RERANK = {"query": "q", "documents": ["a", "b", "c"]}


@pytest.fixture
async def http(with_tenants: GatewayState) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(with_tenants) as client:
        yield client


async def admin(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> httpx.Response:
    return await http.request(method, f"/admin/v1{path}", json=body, headers=ADMIN)


async def key_of(http: httpx.AsyncClient, tenant: str, **limits: Any) -> dict[str, str]:
    """A new tenant's authorization."""
    assert (await admin(http, "POST", "/tenants", {"id": tenant, **limits})).status_code == 201
    issued = await admin(http, "POST", f"/tenants/{tenant}/keys", {"label": "test"})
    assert issued.status_code == 201
    assert issued.headers["cache-control"] == "no-store"
    return {"authorization": f"Bearer {issued.json()['key']}"}


async def rerank(http: httpx.AsyncClient, key: dict[str, str], **body: Any) -> httpx.Response:
    return await http.post("/v2/rerank", json=RERANK | body, headers=key)


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic root", "root"])
async def test_the_admin_routes_want_their_own_key(
    http: httpx.AsyncClient, authorization: str | None
) -> None:
    headers = {"authorization": authorization} if authorization else {}
    reply = await http.get("/admin/v1/tenants", headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")


async def test_without_an_admin_key_nobody_may(gateway: GatewayState) -> None:
    async with client_of(gateway) as http:
        reply = await http.get("/admin/v1/tenants", headers={"authorization": "Bearer "})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    assert "DEAR_ADMIN_KEY" in reply.json()["message"]


async def test_a_tenants_key_is_no_admin_key_nor_the_other_way_round(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme")
    assert (await http.get("/admin/v1/tenants", headers=key)).status_code == 401
    assert (await rerank(http, ADMIN)).status_code == 401


async def test_a_tenants_life(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme", weight=2, requests_per_minute=100)
    assert (await rerank(http, key)).status_code == 200
    changed = await admin(http, "PATCH", "/tenants/acme", {"requests_per_minute": None, "weight": 3.5})
    assert changed.json() == {
        "object": "tenant",
        "id": "acme",
        "weight": 3.5,
        "requests_in_flight": None,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "highest_priority": None,
        "max_prompt_tokens": None,
        "granted": [],
    }
    assert (await admin(http, "GET", "/tenants")).json()["data"] == [changed.json()]
    assert (await admin(http, "DELETE", "/tenants/acme")).json()["deleted"]
    assert (await rerank(http, key)).status_code == 401
    trail = (await admin(http, "GET", "/audit?limit=2")).json()["data"]
    assert [change["action"] for change in trail] == ["tenant.delete", "tenant.change"]


async def test_a_keys_life(http: httpx.AsyncClient) -> None:
    old = await key_of(http, "acme")
    key_id = old["authorization"].split("_")[1]
    new = (await admin(http, "POST", f"/keys/{key_id}/rotate", {"overlap_s": 60})).json()["key"]
    for key in (old, {"authorization": f"Bearer {new}"}):
        assert (await rerank(http, key)).status_code == 200
    assert (await admin(http, "DELETE", f"/keys/{key_id}")).json()["state"] == "revoked"
    assert (await rerank(http, old)).status_code == 401
    listed = (await admin(http, "GET", "/tenants/acme/keys")).json()["data"]
    assert [key["state"] for key in listed] == ["revoked", "valid"]
    assert all("key" not in key and "digest" not in key for key in listed)


async def test_pages_of_tenants(http: httpx.AsyncClient) -> None:
    for name in ("b", "a", "c"):
        await admin(http, "POST", "/tenants", {"id": name})
    page = (await admin(http, "GET", "/tenants?limit=2")).json()
    assert ([one["id"] for one in page["data"]], page["next"]) == (["a", "b"], "b")
    rest = (await admin(http, "GET", "/tenants?limit=2&after=b")).json()
    assert ([one["id"] for one in rest["data"]], rest["next"]) == (["c"], None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/tenants", {}, 400, "id"),
        ("POST", "/tenants", {"id": "No Good"}, 400, "id"),
        ("POST", "/tenants", {"id": "default"}, 400, "id"),
        ("POST", "/tenants", {"id": "x", "weight": 0}, 400, "weight"),
        ("POST", "/tenants", {"id": "x", "requests_per_minute": 1.5}, 400, "requests_per_minute"),
        ("POST", "/tenants", {"id": "x", "tokens_per_minute": True}, 400, "tokens_per_minute"),
        ("POST", "/tenants", {"id": "x", "requests_in_flight": 2**40}, 400, "requests_in_flight"),
        ("POST", "/tenants", {"id": "x", "quota": 1}, 400, "quota"),
        ("POST", "/tenants", [], 400, None),
        ("POST", "/tenants", {"id": "acme"}, 409, "id"),
        ("PATCH", "/tenants/acme", {"weight": None}, 400, "weight"),
        ("PATCH", "/tenants/nobody", {"weight": 2}, 404, "tenant"),
        ("GET", "/tenants/nobody", None, 404, "tenant"),
        ("GET", "/tenants?limit=0", None, 400, "limit"),
        ("GET", "/tenants?limit=x", None, 400, "limit"),
        ("GET", "/audit?limit=99999999999999999999", None, 400, "limit"),
        ("GET", "/audit?limit=0000000011111111111111111111", None, 400, "limit"),
        ("POST", "/tenants/nobody/keys", {}, 404, "tenant"),
        ("POST", "/tenants/acme/keys", {"expires_in_s": -1}, 400, "expires_in_s"),
        ("POST", "/tenants/acme/keys", {"label": "x" * 201}, 400, "label"),
        ("POST", "/keys/0123/rotate", {}, 404, "key"),
        ("POST", "/keys/0123/rotate", {"overlap_s": 1e300}, 400, "overlap_s"),
        ("DELETE", "/keys/0123", None, 404, "key"),
        ("POST", "/tenants/acme/grants", {"adapter": "nothing"}, 404, "adapter"),
        ("POST", "/tenants/nobody/grants", {"adapter": "medical"}, 404, "tenant"),
        ("DELETE", "/tenants/acme/grants/medical", None, 404, "adapter"),
        ("PUT", "/tenants/acme", {}, 405, None),
        ("GET", "/nothing", None, 404, None),
    ],
)
async def test_bad_input_is_named_and_changes_nothing(
    http: httpx.AsyncClient, method: str, path: str, body: Any, status: int, param: str | None
) -> None:
    await admin(http, "POST", "/tenants", {"id": "acme"})
    before = (await admin(http, "GET", "/audit")).json()
    reply = await admin(http, method, path, body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
    assert (await admin(http, "GET", "/audit")).json() == before


async def test_an_adapter_that_is_not_shared_looks_unknown_until_it_is_granted(
    http: httpx.AsyncClient,
) -> None:
    key = await key_of(http, "acme")
    other = await key_of(http, "other")

    async def models(key: dict[str, str]) -> list[str]:
        return [one["id"] for one in (await http.get("/v1/models", headers=key)).json()["data"]]

    hidden, unknown = [await rerank(http, key, model=name) for name in ("medical", "nothing")]
    assert hidden.status_code == unknown.status_code == 404
    assert hidden.json()["message"].replace("medical", "nothing") == unknown.json()["message"]
    assert (await http.get("/v1/models/medical", headers=key)).status_code == 404
    assert await models(key) == ["dear-tiny", "legal"]
    granted = await admin(http, "POST", "/tenants/acme/grants", {"adapter": "medical"})
    assert granted.json()["granted"] == ["medical"]
    assert (await rerank(http, key, model="medical")).status_code == 200
    assert await models(key) == ["dear-tiny", "legal", "medical"]
    assert await models(other) == ["dear-tiny", "legal"]
    await admin(http, "DELETE", "/tenants/acme/grants/medical")
    assert (await rerank(http, key, model="medical")).status_code == 404


async def test_requests_a_minute_are_counted_and_told(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme", requests_per_minute=2)
    first, second, third = [await rerank(http, key) for _ in range(3)]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in (first, second, third)] == [
        "1",
        "0",
        "0",
    ]
    assert third.status_code == 429
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert (await http.get("/v1/models", headers=key)).status_code == 200  # costs the engines nothing
    assert (await rerank(http, await key_of(http, "other"))).status_code == 200


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {}),
        (20, {}),
        (20, {"passes": 3}),
        (60, {"strategy": "sliding"}),
        (60, {"strategy": "sliding", "window_size": 8, "step": 3}),
        (60, {"strategy": "joint"}),
        (60, {"strategy": "merge2", "passes": 2}),
        (60, {"strategy": "tourrank"}),
        (60, {"scoring": "first_token", "strategy": "sliding", "window_size": 8}),
        (30, {"scoring": "generate", "strategy": "sliding"}),
        (12, {"reasoning": True}),
    ],
    ids=str,
)
async def test_a_budget_is_spent_by_what_the_windows_cost_in_the_queue(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, count: int, options: dict[str, Any]
) -> None:
    key = await key_of(http, "acme", tokens_per_minute=10_000_000)
    documents = [f"passage {number} of many" for number in range(100, 100 + count)]
    before = await rerank(http, key, documents=["a"])
    costs: list[int] = []
    turn = FairQueue.turn

    def counted(self: FairQueue, tenant: str, weight: float, cost: int, *rest: Any, **more: Any) -> Any:
        costs.append(cost)
        return turn(self, tenant, weight, cost, *rest, **more)

    monkeypatch.setattr(FairQueue, "turn", counted)
    after = await rerank(http, key, documents=documents, dear=options)
    assert after.status_code == 200, after.text
    left = [int(one.headers["x-ratelimit-remaining-tokens"]) for one in (before, after)]
    # Passages count with their mean length, and reasoning with the most that it may write.
    assert 0.95 * sum(costs) <= left[0] - left[1] <= 1.2 * sum(costs)


async def test_a_request_over_the_tenants_whole_budget_is_too_large(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme", tokens_per_minute=10)
    reply = await rerank(http, key)
    assert reply.status_code == 413
    assert "retry-after" not in reply.headers


async def test_what_a_tenant_cannot_pay_is_refused_before_a_text_is_read(
    with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(with_tenants) as http:
        small = await key_of(http, "small", tokens_per_minute=2000)
        assert (await rerank(http, small)).status_code == 200
        monkeypatch.setattr(PromptBuilder, "prepare", lambda *_: pytest.fail("a text was read"))
        documents = [f"{number}" for number in range(100)]
        spent = await rerank(http, small, documents=documents)
        over = await rerank(http, small, documents=documents, dear={"passes": 16})
        assert (spent.status_code, spent.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert over.status_code == 413
        assert over.json()["message"].startswith("this request is worth at least ")
        queue = with_tenants.queue
        bounded = with_rerank(
            with_tenants, admission=TokenAdmission(queue, with_tenants.budgets, with_tenants.peers, 50)
        )
        async with queue.turn("somebody", 1.0, 40), client_of(bounded) as full:
            assert (await rerank(full, await key_of(full, "other"))).status_code == 429


@pytest.mark.parametrize(("asked", "given"), [(None, 5), (0, 5), (4, 5), (5, 5), (700, 700)])
async def test_no_request_has_a_priority_above_its_tenants(
    http: httpx.AsyncClient, engine: FakeEngine, asked: int | None, given: int
) -> None:
    key = await key_of(http, "acme", highest_priority=5)
    options = {} if asked is None else {"priority": asked}
    await rerank(http, key, documents=["a", "b"], **options)
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, **options}
    assert (await http.post("/v1/chat/completions", json=chat, headers=key)).status_code == 200
    assert [request.priority for request in (*engine.requests, *engine.asked)] == [given, given]


async def test_a_tenants_prompt_tokens_bound_each_request(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    key = await key_of(http, "acme", max_prompt_tokens=500)
    documents = [f"passage {number}" for number in range(60)]
    for options in ({}, {"max_prompt_tokens": 100_000}):
        engine.requests.clear()
        reply = await rerank(http, key, documents=documents, dear=options)
        assert reply.json()["meta"]["dear"]["ranks"]["unread"] > 0
        assert sum(len(request.token_ids) for request in engine.requests) <= 500


async def test_openai_routes_spend_tokens_too(http: httpx.AsyncClient) -> None:
    key = await key_of(http, "acme", tokens_per_minute=1000)
    body = {"messages": [{"role": "user", "content": "x y " * 50}], "max_tokens": 200}
    reply = await http.post("/v1/chat/completions", json=body, headers=key)
    assert 0 < int(reply.headers["x-ratelimit-remaining-tokens"]) < 1000 - 4 * 200 - 50
    assert (await http.post("/v1/chat/completions", json=body, headers=key)).status_code == 429


async def test_work_waits_in_a_bounded_line(with_tenants: GatewayState) -> None:
    queue = with_tenants.queue
    bounded = with_rerank(
        with_tenants, admission=TokenAdmission(queue, with_tenants.budgets, with_tenants.peers, 50)
    )
    async with client_of(bounded) as http:
        key = await key_of(http, "acme")
        assert (await rerank(http, key)).status_code == 200  # nothing is ahead of it
        async with queue.turn("somebody", 1.0, 40):
            reply = await rerank(http, key)
    assert reply.status_code == 429
    assert "40 tokens of work are ahead" in reply.json()["message"]


async def test_prefixes_are_cached_for_the_tenant_alone(with_tenants: GatewayState) -> None:
    seen: list[str | None] = []
    permute = with_tenants.engine.permute

    async def spy(request: Any) -> Any:
        seen.append(request.cache_salt)
        return await permute(request)

    with_tenants.engine.permute = spy  # type: ignore[method-assign]
    async with client_of(with_tenants) as http:
        keys = [await key_of(http, name) for name in ("acme", "other")]
        await asyncio.gather(*(rerank(http, key) for key in (*keys, keys[0])))
    assert len(seen) == 3
    assert None not in seen
    assert len(set(seen)) == 2


async def test_metrics_name_tenants_and_want_a_key_unless_opened(with_tenants: GatewayState) -> None:
    async with client_of(with_tenants) as http:
        key = await key_of(http, "acme", requests_per_minute=1)
        await rerank(http, key)
        await rerank(http, key)
        assert (await http.get("/metrics")).status_code == 401
        text = (await http.get("/metrics", headers=key)).text
    assert 'dear_tenant_requests_total{outcome="served",tenant="acme"} 1.0' in text
    assert 'dear_tenant_requests_total{outcome="limited",tenant="acme"} 1.0' in text
    assert 'dear_tokens_total{kind="prompt",revision="dear-tiny",tenant="acme"}' in text
    tenancy = with_tenants.settings.tenancy.model_copy(update={"open_metrics": True})
    opened = dataclasses.replace(
        with_tenants, settings=with_tenants.settings.model_copy(update={"tenancy": tenancy})
    )
    async with client_of(opened) as http:
        assert (await http.get("/metrics")).status_code == 200


async def test_metrics_show_a_tenant_its_own_and_administrators_all(with_tenants: GatewayState) -> None:
    async with client_of(with_tenants) as http:
        keys = [await key_of(http, name) for name in ("acme", "other")]
        for key in keys:
            await rerank(http, key)
        own = (await http.get("/metrics", headers=keys[1])).text
        every = (await http.get("/metrics", headers=ADMIN)).text
    assert 'tenant="other"' in own
    samples = [line for line in own.splitlines() if not line.startswith("#")]
    assert samples
    assert all('tenant="other"' in line for line in samples)
    assert "acme" not in own
    assert "fake_requests_total" not in own
    assert 'tenant="acme"' in every
    assert 'tenant="other"' in every
    assert "fake_requests_total 1.0" in every


@pytest.mark.integration
async def test_a_thousand_unknown_adapters_leave_nothing_behind(with_tenants: GatewayState) -> None:
    async with client_of(with_tenants) as http:
        key = await key_of(http, "acme")
        await rerank(http, key)
        before = len((await http.get("/metrics", headers=key)).text.splitlines())
        replies = [await rerank(http, key, model=f"adapter-{number}") for number in range(1000)]
        assert {reply.status_code for reply in replies} == {404}
        after = len((await http.get("/metrics", headers=key)).text.splitlines())
    assert after - before <= 20  # the 404s' own lines, once
    assert len(with_tenants.rerank.latencies) == 1
    assert len(with_tenants.queue._lines) <= 1
