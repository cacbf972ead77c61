"""The registry's server is stopped, or killed, under a gateway: who knows it notices nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from dear_serving.adapters.configured import register_configured
from dear_serving.errors import SettingsError
from dear_serving.gateway.authenticator import hash_keys
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.registry.database import open_database
from dear_serving.settings import RegistrySettings, Settings
from dear_serving.tenancy.keys import new_key
from dear_serving.tenancy.tenants import Limits
from tests.conftest import client_of, gateway_over, settings_in
from tests.support.fake_engine import FakeEngine
from tests.support.postgres import PostgresServer, new_postgres_database, postgres_server

pytestmark = pytest.mark.integration

BODY = {"model": "legal", "query": "who pays", "documents": ["the tenant", "the landlord"]}
ADMIN = {"Authorization": "Bearer root"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    with postgres_server() as server:
        yield server


@pytest.fixture
async def gateway(
    server: PostgresServer,
    settings: Settings,
    tokenizer: BaseTokenizer,
    engine: FakeEngine,
    seeded: Path,
    tmp_path: Path,
) -> AsyncIterator[GatewayState]:
    """A gateway at work, closed to callers without a key."""
    own = settings_in(tmp_path, settings, seeded / "store").model_copy(
        update={
            "registry": RegistrySettings(url=new_postgres_database(server.folder)),
            "tenancy": settings.tenancy.model_copy(update={"open": False}),
        }
    )
    await asyncio.to_thread(register_configured, own)
    async with gateway_over(own, engine, tokenizer) as state:
        running = asyncio.create_task(state.lifecycle.run())
        yield dataclasses.replace(state, admin_digests=hash_keys(["root"]))
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("outage", ["hanging", "killed"])
async def test_known_keys_and_models_are_served_on_and_changes_are_refused_for_now(
    outage: str, gateway: GatewayState, server: PostgresServer
) -> None:
    gateway.tenants.create("acme", weight=1.0, limits=Limits(), actor="test")
    issued = gateway.tenants.create_key("acme", actor="test")
    key = {"Authorization": f"Bearer {issued.text}"}
    async with client_of(gateway) as http:
        before = await http.post("/v2/rerank", json=BODY, headers=key)
        assert before.status_code == 200, before.text
        with getattr(server, outage)():
            took_s = await served_for(6.0, http, key)
            unknown, change = await asyncio.gather(
                http.post("/v2/rerank", json=BODY, headers={"Authorization": f"Bearer {new_key().text}"}),
                http.post("/admin/v1/tenants", json={"id": "late"}, headers=ADMIN),
            )
            for refused in (unknown, change):
                assert refused.status_code == 503, refused.text
                assert refused.json()["error"]["code"] == "registry_unavailable"
                assert int(refused.headers["retry-after"]) >= 1
            took_s += await served_for(2.0, http, key)
        assert max(took_s) < 3.0  # a quarter of a second, and what a busy machine adds
        await until_status(201, http, "/admin/v1/tenants", {"id": "late"}, ADMIN)
        await asyncio.to_thread(gateway.tenants.revoke_key, issued.key.id, actor="test")
        await until_status(401, http, "/v2/rerank", BODY, key)


async def served_for(seconds: float, http: httpx.AsyncClient, key: dict[str, str]) -> list[float]:
    """Ranks for that long; how long each took."""
    took_s, ends_s = list[float](), time.monotonic() + seconds
    while time.monotonic() < ends_s:
        started_s = time.monotonic()
        reply = await http.post("/v2/rerank", json=BODY, headers=key)
        took_s.append(time.monotonic() - started_s)
        assert reply.status_code == 200, reply.text
        await asyncio.sleep(0.2)
    return took_s


async def until_status(
    status: int, http: httpx.AsyncClient, path: str, body: dict[str, object], headers: dict[str, str]
) -> None:
    """Asks again until it is answered so; what comes before is a 503 or a 200."""
    async with asyncio.timeout(30):
        while (reply := await http.post(path, json=body, headers=headers)).status_code != status:
            assert reply.status_code in (503, 200), reply.text
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("outage", ["hanging", "killed"])
def test_a_start_without_the_registry_is_one_sentence(outage: str, server: PostgresServer) -> None:
    url = new_postgres_database(server.folder)
    with (
        getattr(server, outage)(),
        pytest.raises(SettingsError, match=r"registry\.url: .* cannot be opened: ") as raised,
    ):
        open_database(url)
    assert "\n" not in raised.value.message
