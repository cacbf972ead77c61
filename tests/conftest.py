"""How the tests are run, and what most of them share: settings, a registry, a gateway over a fake engine."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import hypothesis
import pytest
from starlette.testclient import TestClient
from xdist.scheduler import LoadScopeScheduling

from dear_serving.adapters.configured import register_configured
from dear_serving.adapters.preflight import digest
from dear_serving.gateway.authenticator import Authenticator, hash_keys
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer, load_tokenizer
from dear_serving.http.app import create_app
from dear_serving.protocol import GenerationRequest
from dear_serving.registry.database import Database, open_database
from dear_serving.settings import HttpSettings, RegistrySettings, Settings, load_settings
from dear_serving.tenancy.tenants import Tenants
from tests.support.fake_engine import FakeEngine
from tests.support.postgres import new_postgres_database, postgres

ROOT = Path(__file__).resolve().parents[1]
CPU_CONFIG = ROOT / "configs" / "cpu.yaml"
LEGAL = f"legal@{digest(ROOT / 'configs' / 'demo' / 'adapters' / 'legal')[:12]}"
"""The revision of the adapter that the default serves as legal."""


# The usual run repeats itself: what fails in it was broken by the change. The long one looks for more.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=60)
hypothesis.settings.register_profile("long", deadline=None, max_examples=500)
hypothesis.settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a server first: it starts while other processes run the other tests."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


def pytest_collection_finish() -> None:
    """Spare the collector what lives to the end: modules and tests."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """How several processes share the tests."""
    return Scheduler(config, log)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests run in one process, and so do all tests of the shared server."""

    def _split_scope(self, nodeid: str) -> str:
        path = PurePosixPath(nodeid.partition("::")[0])
        return str(path.parent if "e2e" in path.parts else path)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The settings of the CPU default."""
    return load_settings(CPU_CONFIG)


@pytest.fixture(scope="session")
def tokenizer(settings: Settings) -> BaseTokenizer:
    """The tiny model's tokenizer."""
    assert settings.model.source is not None
    return load_tokenizer(settings.model.source)


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[str]:
    """The socket of a PostgreSQL server that this session started."""
    with postgres() as folder:
        yield folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has used, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    return new_postgres_database(request.getfixturevalue("postgres_folder"))


@pytest.fixture
def registry(registry_url: str) -> Iterator[Database]:
    """An open registry, of either kind."""
    database = open_database(registry_url)
    yield database
    database.close()


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    """The tenants of a registry of the test's own."""
    database = open_database(f"sqlite:///{tmp_path / 'registry.db'}")
    yield Tenants(database)
    database.close()


@pytest.fixture
def engine(tokenizer: BaseTokenizer) -> FakeEngine:
    """Ranks every window from the last passage to the first, written or decoded."""
    return FakeEngine(reversing(tokenizer), lambda request: range(len(request.identifiers))[::-1])


@pytest.fixture(scope="session")
def seeded(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the registry and the store of a server that started once with the default's settings."""
    folder = tmp_path_factory.mktemp("seeded")
    register_configured(settings_in(folder, settings))
    return folder


def settings_in(folder: Path, settings: Settings, store: Path | None = None) -> Settings:
    """The settings with the registry, store and cache in a folder, and for any Host: tests use several."""
    adapters = {"store": str(store or folder / "store"), "cache": folder / "cache"}
    return settings.model_copy(
        update={
            "adapters": settings.adapters.model_copy(update=adapters),
            "registry": RegistrySettings(url=f"sqlite:///{folder / 'registry.db'}"),
            "http": HttpSettings(allowed_hosts=("*",)),
        }
    )


@contextlib.asynccontextmanager
async def gateway_over(
    own: Settings, engine: FakeEngine, tokenizer: BaseTokenizer
) -> AsyncIterator[GatewayState]:
    """A gateway of these settings over the fake engine, its catalog read; closed at the end."""
    assert own.model.source is not None
    state = build_gateway(own, engine, tokenizer, own.model.source)
    await state.catalog.refresh()
    yield state
    state.close()
    state.database.close()


@pytest.fixture
async def gateway(
    settings: Settings, tokenizer: BaseTokenizer, engine: FakeEngine, seeded: Path, tmp_path: Path
) -> AsyncIterator[GatewayState]:
    """A gateway over the fake engine, with small limits and the default's adapters in service."""
    limits = settings.limits.model_copy(
        update={"max_body_bytes": 2_000_000, "max_documents": 100, "max_document_chars": 200_000}
    )
    shutil.copy(seeded / "registry.db", tmp_path)
    own = settings_in(tmp_path, settings.model_copy(update={"limits": limits}), seeded / "store")
    async with gateway_over(own, engine, tokenizer) as state:
        yield state


@pytest.fixture
async def with_tenants(gateway: GatewayState) -> GatewayState:
    """A gateway that is closed to callers without a key; medical is not shared."""
    gateway.lifecycle.adapters.share("medical", False, actor="test")
    await gateway.catalog.refresh()
    tenancy = gateway.settings.tenancy.model_copy(update={"open": False, "open_metrics": False})
    return dataclasses.replace(
        gateway,
        settings=gateway.settings.model_copy(update={"tenancy": tenancy}),
        authenticator=Authenticator(gateway.tenants, fresh_s=0.0),
        admin_digests=hash_keys(["root"]),
    )


@pytest.fixture
def http(gateway: GatewayState) -> Iterator[httpx.AsyncClient]:
    """A client of the gateway's app, in process."""
    yield client_of(gateway)


def client_of(gateway: GatewayState) -> httpx.AsyncClient:
    """A client of the app in this process; faults of the app come back as its 500 reply."""
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def with_rerank(gateway: GatewayState, **parts: Any) -> GatewayState:
    """The gateway with other parts of its rerank service."""
    return dataclasses.replace(gateway, rerank=dataclasses.replace(gateway.rerank, **parts))


class InProcess(httpx.BaseTransport):
    """Brings the requests of clients that block to the app in this process."""

    def __init__(self, gateway: GatewayState) -> None:
        self._client = TestClient(create_app(gateway), raise_server_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self._client.request(
            request.method, str(request.url), headers=dict(request.headers), content=request.read()
        )
        return httpx.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)


def reversing(tokenizer: BaseTokenizer) -> Callable[[GenerationRequest], str]:
    """A writer that reads the identifiers out of the prompt and lists them from last to first."""

    def write(request: GenerationRequest) -> str:
        text = tokenizer.decode(request.token_ids)
        # The chat prompt names each passage twice ("Received passage [1]."), and shows an example.
        body = text.rpartition("Search Query:")[0]
        seen = dict.fromkeys(re.findall(r"\[(\d+)\]", body))
        return " > ".join(f"[{identifier}]" for identifier in reversed(seen))

    return write
