"""Fixtures shared by the suites that run without Ray."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dear_serving.adapters.templates import load_template
from dear_serving.api.gateway import GatewayState
from dear_serving.api.routes import create_app
from dear_serving.engine.fake import FakeEngine
from dear_serving.engine.protocol import EngineRequest
from dear_serving.engine.tokenizer import BaseTokenizer, load_tokenizer
from dear_serving.metrics import Metrics
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.registry.database import Database, open_database
from dear_serving.settings import Settings, load_settings
from dear_serving.tenancy.admission import Admission
from dear_serving.tenancy.budgets import Budgets
from dear_serving.tenancy.fairness import FairQueue
from dear_serving.tenancy.keyring import KeyRing, hash_keys
from dear_serving.tenancy.tenants import Tenants
from tests.postgres import new_postgres_database, postgres

ROOT = Path(__file__).resolve().parents[1]
CPU_CONFIG = ROOT / "configs" / "cpu.yaml"


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


@pytest.fixture(params=["sqlite", "postgresql"])
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


@pytest.fixture(scope="session")
def no_tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    """For tests that have none: a registry that stays empty."""
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}")
    yield Tenants(database)
    database.close()


@pytest.fixture
def engine(tokenizer: BaseTokenizer) -> FakeEngine:
    """Ranks every window from the last passage to the first, written or decoded."""
    return FakeEngine(reversing(tokenizer), lambda request: range(len(request.identifiers))[::-1])


@pytest.fixture
def gateway(
    settings: Settings, tokenizer: BaseTokenizer, engine: FakeEngine, no_tenants: Tenants
) -> GatewayState:
    """A gateway over the fake engine, with small limits."""
    limits = settings.limits.model_copy(
        update={"max_body_bytes": 2_000_000, "max_documents": 100, "max_document_chars": 200_000}
    )
    names = settings.templates()
    return GatewayState(
        settings=settings.model_copy(update={"limits": limits}),
        engine=engine,
        builders={
            name: PromptBuilder(load_template(template, None), tokenizer, settings.engine.max_model_len)
            for name, template in names.items()
        },
        revisions={name: f"{name}@0123456789ab" for name in names},
        admission=Admission(limits.max_requests_in_flight),
        metrics=Metrics(),
        tenants=no_tenants,
        keyring=KeyRing(no_tenants, open_door=True),
        budgets=Budgets(),
        queue=FairQueue(settings.engine.max_tokens, settings.engine.max_shared_tokens),
    )


@pytest.fixture
def with_tenants(gateway: GatewayState, tenants: Tenants) -> GatewayState:
    """A gateway with a registry of its own, closed to callers without a key; medical is not shared."""
    served = [
        one.model_copy(update={"shared": one.name != "medical"}) for one in gateway.settings.adapters.serve
    ]
    adapters = gateway.settings.adapters.model_copy(update={"serve": tuple(served)})
    return dataclasses.replace(
        gateway,
        settings=gateway.settings.model_copy(update={"adapters": adapters}),
        tenants=tenants,
        keyring=KeyRing(tenants, fresh_s=0.0),
        admin_digests=hash_keys(["root"]),
    )


@pytest.fixture
def http(gateway: GatewayState) -> Iterator[httpx.AsyncClient]:
    """A client of the gateway's app, in process."""
    yield client_of(gateway)


def client_of(gateway: GatewayState) -> httpx.AsyncClient:
    """A client of the app in this process; faults of the app come back as its 500 reply."""
    transport = httpx.ASGITransport(create_app(gateway), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def reversing(tokenizer: BaseTokenizer) -> Callable[[EngineRequest], str]:
    """A writer that reads the identifiers out of the prompt and lists them from last to first."""

    def write(request: EngineRequest) -> str:
        text = tokenizer.decode(request.token_ids)
        # The chat prompt names each passage twice ("Received passage [1]."), and shows an example.
        body = text.rpartition("Search Query:")[0]
        seen = dict.fromkeys(re.findall(r"\[(\d+)\]", body))
        return " > ".join(f"[{identifier}]" for identifier in reversed(seen))

    return write
