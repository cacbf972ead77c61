"""Both clients against the whole app in process: every call, and the errors it really gives."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from dear_client import (
    Adapter,
    AlreadyThere,
    Change,
    ClientError,
    EngineUnavailable,
    InvalidKey,
    InvalidRequest,
    Key,
    Model,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    Replica,
    Retry,
    Revision,
    Tenant,
    Timeout,
    UnknownModel,
    UnknownSubject,
    administration,
)
from dear_client.administration import AdminCalls
from dear_client.async_client import AsyncAdmin, AsyncClient
from dear_client.calls import Calls
from dear_client.client import Admin, Client
from dear_serving.gateway.state import GatewayState
from tests.client.conftest import Connect
from tests.conftest import LEGAL
from tests.support.fake_engine import FakeEngine

DOCUMENTS: list[Any] = ["alpha", {"text": "beta", "url": "https://example.org"}, "gamma", "delta"]
ONCE = Retry(attempts=1)


async def test_a_reranking(connect: Connect, gateway: GatewayState) -> None:
    client = connect(app=gateway)
    ranking = await client("rerank", "which letter?", DOCUMENTS, model="legal", top_n=3, request_id="mine")
    assert ranking.order == (3, 2, 1)
    assert ranking.documents[2] is DOCUMENTS[1]
    assert (ranking.id, ranking.request_id, ranking.model) == ("mine", "mine", "legal")
    assert ranking.usage.prompt_tokens > 0
    assert ranking.warnings == ()
    details = ranking.details
    assert details is not None
    assert (details.strategy, details.windows, details.revision, details.repairs.missing) == (
        "single",
        1,
        LEGAL,
        0,
    )
    assert list(details.model_extra or {}) == []
    assert ranking.model_extra == {}


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"strategy": "sliding", "window_size": 3, "step": 1}, {"strategy": "sliding"}),
    ({"scoring": "generate"}, {"score_type": "rank"}),
    ({"scoring": "first_token"}, {"windows": 1}),
    ({"passes": 3}, {"windows": 3}),
    ({"reasoning": True}, {"windows": 1}),
    ({"explain": True}, {"rounds": 1}),
    ({"deadline_s": 30.0, "max_passage_tokens": 50, "priority": 5}, {"windows": 1}),
]


async def test_every_option_is_one_that_the_server_knows(connect: Connect, gateway: GatewayState) -> None:
    client = connect(app=gateway)
    for options, seen in OPTIONS:
        ranking = await client("rerank", "q", DOCUMENTS, **options)
        assert sorted(ranking.order) == [0, 1, 2, 3]
        assert {name: getattr(ranking.details, name) for name in seen} == seen
        assert bool(ranking.details.reasoning) == ("reasoning" in options)
        explanation = ranking.details.explanation
        assert (explanation is not None) == ("explain" in options)
        assert explanation is None or explanation.windows[0].documents == (0, 1, 2, 3)


async def test_rank_fields(connect: Connect, gateway: GatewayState, engine: FakeEngine) -> None:
    documents = [{"title": "alpha", "id": object()}, {"title": "beta", "id": object()}]
    ranking = await connect(app=gateway)("rerank", "q", documents, rank_fields=["title"])
    assert ranking.documents == tuple(reversed(documents))


async def test_the_clients_model_ranks_where_a_call_names_none(
    connect: Connect, gateway: GatewayState
) -> None:
    client = connect(app=gateway, model="legal")
    assert (await client("rerank", "q", ["a", "b"])).model == "legal"
    assert (await client("rerank", "q", ["a", "b"], model="medical")).model == "medical"


async def test_a_stream_is_the_reranking_rank_by_rank(connect: Connect, gateway: GatewayState) -> None:
    client = connect(app=gateway)
    ranks, ranking = await client.stream("q", DOCUMENTS, top_n=3, request_id="mine")
    assert [one.index for one in ranks] == list(ranking.order) == [3, 2, 1]
    assert ranks[2].document is ranking.documents[2] is DOCUMENTS[1]
    plain = await client("rerank", "q", DOCUMENTS, top_n=3)
    assert [one.relevance_score for one in ranks] == [one.relevance_score for one in plain.results]
    assert ranking.request_id == "mine"


async def test_models_health_and_readiness(connect: Connect, gateway: GatewayState) -> None:
    client = connect(app=gateway)
    models: list[Model] = await client("models")
    assert {"legal", "medical"} < {model.id for model in models}
    assert {model.parent for model in models if model.id == "legal"} == {
        model.id for model in models if model.parent is None
    }
    assert await client("health") is None
    assert await client("ready") is None


REFUSED: list[tuple[dict[str, Any], type[ClientError], str | None]] = [
    ({"documents": []}, InvalidRequest, "documents"),
    ({"query": "  "}, InvalidRequest, "query"),
    ({"top_n": -1}, InvalidRequest, "top_n"),
    ({"strategy": "magic"}, InvalidRequest, "dear.strategy"),
    ({"window_size": "5"}, InvalidRequest, "dear.window_size"),
    ({"documents": ["a"] * 101}, PayloadTooLarge, "documents"),
    ({"documents": ["x" * 200_001]}, PayloadTooLarge, "documents.0"),
    ({"documents": ["x" * 2_000_001]}, PayloadTooLarge, None),
    ({"model": "nobody"}, UnknownModel, "model"),
]


async def test_what_the_server_refuses_is_named(connect: Connect, gateway: GatewayState) -> None:
    client = connect(app=gateway)
    for call, kind, param in REFUSED:
        for method in ("rerank", "stream"):
            with pytest.raises(ClientError) as caught:
                await client(method, **({"query": "q", "documents": ["a", "b"]} | call))
            assert (type(caught.value), caught.value.param) == (kind, param), str(call)[:80]


@pytest.mark.parametrize("call", [{"rank_fields": []}, {"documents": ["lone \ud800 surrogate", "b"]}])
async def test_what_looks_odd_is_ranked_all_the_same(
    connect: Connect, gateway: GatewayState, call: dict[str, Any]
) -> None:
    given = {"query": "q", "documents": ["a", "b"]} | call
    assert (await connect(app=gateway)("rerank", **given)).order == (1, 0)


async def test_no_engine(connect: Connect, gateway: GatewayState, engine: FakeEngine) -> None:
    engine.dead = True
    client = connect(app=gateway, retry=ONCE)
    for method, *given in (("rerank", "q", ["a", "b"]), ("stream", "q", ["a", "b"]), ("ready",)):
        with pytest.raises(EngineUnavailable) as caught:
            await client(method, *given)
        assert caught.value.retry_after_s is not None
    await client("health")


async def test_another_path_is_another_server(connect: Connect, gateway: GatewayState) -> None:
    with pytest.raises(NotFound, match="there is no /elsewhere/v1/models"):
        await connect("http://gateway/elsewhere", app=gateway)("models")


async def test_base_urls_of_other_clients_work(connect: Connect, gateway: GatewayState) -> None:
    for ending in ("", "/", "/v1", "/v2/"):
        client = connect(f"http://gateway{ending}", app=gateway)
        assert client.client.base_url == "http://gateway"
        await client("models")


# Keys.


async def test_keys_and_what_they_open(connect: Connect, with_tenants: GatewayState) -> None:
    admin = connect(app=with_tenants, admin_key="root")
    with pytest.raises(InvalidKey):
        await admin("models")
    await admin("admin.create_tenant", "acme")
    key = await admin("admin.create_key", "acme", label="laptop")
    client = connect(app=with_tenants, api_key=key.key)
    assert "medical" not in {model.id for model in await client("models")}
    with pytest.raises(UnknownModel):
        await client("rerank", "q", ["a"], model="medical")
    with pytest.raises(InvalidKey, match="the admin key is needed"):
        await client("admin.tenants")
    await admin("admin.grant", "acme", "medical")
    assert (await client("rerank", "q", ["a"], model="medical")).order == (0,)
    await admin("admin.revoke_key", key.id)
    with pytest.raises(InvalidKey):
        await client("rerank", "q", ["a"])


async def test_an_expired_key(connect: Connect, with_tenants: GatewayState) -> None:
    admin = connect(app=with_tenants, admin_key="root")
    await admin("admin.create_tenant", "acme")
    key = await admin("admin.create_key", "acme", expires_in_s=0.05)
    await asyncio.sleep(0.1)
    client = connect(app=with_tenants, api_key=key.key)
    for method, *given in (("rerank", "q", ["a"]), ("stream", "q", ["a"]), ("models",)):
        with pytest.raises(InvalidKey) as caught:
            await client(method, *given)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
        assert key.key not in str(caught.value)


async def test_a_spent_limit_is_waited_for_only_as_long_as_allowed(
    connect: Connect, with_tenants: GatewayState
) -> None:
    admin = connect(app=with_tenants, admin_key="root")
    await admin("admin.create_tenant", "acme", requests_per_minute=1)
    key = (await admin("admin.create_key", "acme")).key
    client = connect(app=with_tenants, api_key=key, timeout=Timeout(total_s=0.5))
    await client("rerank", "q", ["a"])
    with pytest.raises(RateLimited) as caught:
        await client("rerank", "q", ["a"])
    assert 0 < (caught.value.retry_after_s or 0) <= 60


async def test_without_an_admin_key_the_admin_routes_are_closed(
    connect: Connect, gateway: GatewayState
) -> None:
    with pytest.raises(PermissionDenied, match="the admin routes are closed"):
        await connect(app=gateway, admin_key="root")("admin.tenants")


# Administration.


async def test_a_tenants_life(connect: Connect, with_tenants: GatewayState) -> None:
    client = connect(app=with_tenants, admin_key="root")
    made = await client("admin.create_tenant", "acme", weight=2.0, requests_per_minute=100)
    assert isinstance(made, Tenant)
    assert (made.id, made.weight, made.requests_per_minute, made.granted) == ("acme", 2.0, 100, ())
    with pytest.raises(AlreadyThere):
        await client("admin.create_tenant", "acme")
    changed = await client("admin.set_tenant", "acme", requests_per_minute=None, tokens_per_minute=10**6)
    assert (changed.requests_per_minute, changed.tokens_per_minute, changed.weight) == (None, 10**6, 2.0)
    assert (await client("admin.grant", "acme", "medical")).granted == ("medical",)
    assert await client("admin.tenant", "acme") == (await client("admin.tenants"))[0]
    assert (await client("admin.ungrant", "acme", "medical")).granted == ()
    assert await client("admin.delete_tenant", "acme") is None
    with pytest.raises(UnknownSubject, match="acme"):
        await client("admin.tenant", "acme")
    with pytest.raises(UnknownModel):
        await client("admin.grant", "acme", "nothing")


async def test_a_keys_life(connect: Connect, with_tenants: GatewayState) -> None:
    client = connect(app=with_tenants, admin_key="root")
    await client("admin.create_tenant", "acme")
    first = await client("admin.create_key", "acme", label="laptop", expires_in_s=3600)
    assert isinstance(first, Key)
    assert (first.tenant, first.label, first.state) == ("acme", "laptop", "valid")
    assert first.expires is not None
    second = await client("admin.rotate_key", first.id, overlap_s=60)
    assert second.key not in (None, first.key)
    revoked = await client("admin.revoke_key", second.id)
    assert (revoked.state, revoked.key) == ("revoked", None)
    assert [key.id for key in await client("admin.keys", "acme")] == [first.id, second.id]
    assert not any(key.key for key in await client("admin.keys", "acme"))


async def test_an_adapters_life(connect: Connect, served: GatewayState) -> None:
    client = connect(app=served, admin_key="root")
    await client("admin.create_tenant", "acme")
    first = await client("admin.register_adapter", "new", "legal", activate=True, tenants=["acme"])
    assert isinstance(first, Revision)
    assert (first.name, first.state, first.template) == ("new", "active", "plain")
    second = await client("admin.register_adapter", "new", "medical")
    assert second.state == "staged"
    assert (await client("admin.activate_adapter", "new", second.id)).state == "active"
    assert (await client("admin.rollback_adapter", "new")).id == first.id
    found = await client("admin.adapter", "new")
    assert isinstance(found, Adapter)
    assert (found.active, found.previous, found.shared) == (first.id, second.id, False)
    assert {one.id for one in found.revisions} == {first.id, second.id}
    assert (await client("admin.share_adapter", "new")).shared
    assert not (await client("admin.share_adapter", "new", False)).shared
    assert [one.name for one in await client("admin.adapters")] == ["legal", "medical", "new"]
    await client("admin.retire_adapter", "new", second.id)
    assert (await client("admin.retire_adapter", "new")).active is None
    with pytest.raises(InvalidRequest) as caught:
        await client("admin.register_adapter", "odd", "nowhere")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("tenants", "shared", "sent"),
    [
        ((), None, {}),
        ((), False, {"shared": False}),
        ((), True, {"shared": True}),
        (("a",), None, {"tenants": ["a"], "shared": False}),
        (("a",), True, {"tenants": ["a"], "shared": True}),
        (("a",), False, {"tenants": ["a"], "shared": False}),
    ],
)
def test_whom_a_new_adapter_is_for(tenants: tuple[str, ...], shared: bool | None, sent: Any) -> None:
    call = AdminCalls().register_adapter("n", "s", tenants=tenants, shared=shared)
    assert call.body == {"name": "n", "source": "s", "activate": False} | sent


async def test_the_replicas_that_run(connect: Connect, with_tenants: GatewayState) -> None:
    client = connect(app=with_tenants, admin_key="root")
    (gateway,) = await client("admin.replicas")
    assert isinstance(gateway, Replica)
    assert (gateway.id, gateway.role, gateway.state) == (with_tenants.catalog.gateway, "gateway", "serving")
    assert (gateway.load, gateway.queued_tokens, gateway.current) == (0, 0, True)


async def test_the_audit_trail(connect: Connect, with_tenants: GatewayState) -> None:
    client = connect(app=with_tenants, admin_key="root")
    for name in ("a", "b", "c"):
        await client("admin.create_tenant", name)
    newest, before = await client("admin.audit", 2)
    assert isinstance(newest, Change)
    assert (newest.subject, before.subject) == ("c", "b")
    assert (newest.actor, newest.action) == ("admin", before.action)
    with pytest.raises(InvalidRequest):
        await client("admin.audit", 1001)


async def test_all_tenants_come_however_many_pages_it_takes(
    connect: Connect, with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(app=with_tenants, admin_key="root")
    names = [f"tenant-{number}" for number in range(7)]
    for name in names:
        await client("admin.create_tenant", name)
    for size in (1, 2, 3, 7, 8):
        monkeypatch.setattr(administration, "_PAGE", size)
        assert [tenant.id for tenant in await client("admin.tenants")] == names
        assert [one.name for one in await client("admin.adapters")] == ["legal", "medical"]


# Both clients.


def test_both_clients_offer_the_same() -> None:
    def public(kind: type[Any]) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    assert public(Admin) == public(AsyncAdmin) == public(AdminCalls)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_help_shows_the_words_and_the_signature_of_the_call(kind: type[Any]) -> None:
    assert kind.rerank.__doc__ == Calls.rerank.__doc__
    assert "top_n" in (kind.rerank.__doc__ or "")
    assert list(inspect.signature(kind.rerank).parameters) == ["self", "query", "documents", "options"]
