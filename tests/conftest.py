"""Fixtures shared by the suites that run without Ray."""

from __future__ import annotations

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
from dear_serving.settings import Settings, load_settings
from dear_serving.tenancy.admission import Admission

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


@pytest.fixture
def engine(tokenizer: BaseTokenizer) -> FakeEngine:
    """Ranks every window from the last passage to the first, written or decoded."""
    return FakeEngine(reversing(tokenizer), lambda request: range(len(request.identifiers))[::-1])


@pytest.fixture
def gateway(settings: Settings, tokenizer: BaseTokenizer, engine: FakeEngine) -> GatewayState:
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
