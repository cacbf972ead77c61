"""Requests made from the OpenAPI document, valid and invalid: no 5xx, every reply as the document says."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from starlette.testclient import TestClient

from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import create_app
from dear_serving.replica.adapter_sync import AdapterSync
from tests.conftest import ROOT

pytestmark = [pytest.mark.attack, pytest.mark.integration]

logger = logging.getLogger(__name__)

ADMIN = {"authorization": "Bearer root"}
OFF = {"enabled": False}
CONFIG = {
    "seed": 0,
    "suppress-health-check": ["all"],
    "generation": {"max-examples": 5, "deterministic": True, "with-security-parameters": False},
    # It sends requests of its own, for which it would need a server; test_schemas.py looks at keys.
    "checks": {"ignored_auth": OFF},
    "operations": [
        # Rules between fields, which no schema tells: a step within the window, fields that documents have.
        {"include-tag": "rerank", "checks": {"positive_data_acceptance": OFF}},
        # Rules between fields, too; and numbers may be texts, as vLLM takes them.
        {
            "include-tag": "openai",
            "checks": {"negative_data_rejection": OFF, "positive_data_acceptance": OFF},
        },
        # As lax as vLLM; what is loaded already is refused.
        {
            "include-path-regex": "lora_adapter$",
            "checks": {"negative_data_rejection": OFF, "positive_data_acceptance": OFF},
        },
        # PATCH adapters/{name}: names have slashes.
        {
            "include-path-regex": "adapters/{name}/",
            "checks": {"unsupported_method": OFF, "allow_header_conformance": OFF},
        },
        # GET /v1/models/{name}: names have slashes, and this may be one.
        {
            "include-path": "/v1/models/rerank",
            "checks": {"unsupported_method": OFF, "allow_header_conformance": OFF},
        },
        # Folders and templates that do not exist.
        {"include-name": "POST /admin/v1/adapters", "checks": {"positive_data_acceptance": OFF}},
    ],
}
# Bodies and replies that another path has, too; tests/http/test_dialects.py asks all.
AGAIN = r"""^/compat/(cohere|jina|vllm|vllm-score|nvidia|dashscope|mixedbread|zeroentropy|vertex)/
    |^/compat/(voyage|contextual)/rerank$|^/v1/score$|^/models/rerank$"""
schema = schemathesis.openapi.from_path(
    ROOT / "configs" / "openapi.json", config=schemathesis.Config.from_dict(CONFIG)
).exclude(path_regex=re.compile(AGAIN, re.VERBOSE))
sent: Counter[tuple[str, int]] = Counter()


@schema.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Whole numbers as JavaScript writes them: to JSON Schema 2.0 is an integer, to this server it is not."""
    if isinstance(body, float) and body.is_integer():
        return int(body)
    if isinstance(body, dict):
        return {key: map_body(context, value) for key, value in body.items()}
    return [map_body(context, one) for one in body] if isinstance(body, list) else body


@pytest.fixture(scope="module", autouse=True)
def summary() -> Iterator[None]:
    """Logs what was sent and answered (--log-cli-level=INFO)."""
    yield
    statuses: Counter[int] = Counter()
    for (_, status), count in sent.items():
        statuses[status] += count
    replies = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    operations = {operation for operation, _ in sent}
    logger.info("%d operations, %d requests: %s", len(operations), statuses.total(), replies)


@pytest.fixture
def client(with_adapters: GatewayState, adapter_sync: AdapterSync) -> Iterator[TestClient]:
    """The gateway and a replica at work; there is a tenant "acme", and an adapter "desk"."""
    with TestClient(create_app(with_adapters), raise_server_exceptions=False) as client:
        assert client.portal is not None
        client.portal.call(adapter_sync.start)
        running = client.portal.start_task_soon(adapter_sync.run)
        client.post("/admin/v1/tenants", json={"id": "acme"}, headers=ADMIN)
        desk = {"name": "desk", "source": "legal", "activate": True}
        client.post("/admin/v1/adapters", json=desk, headers=ADMIN).raise_for_status()
        yield client
        running.cancel()


@pytest.fixture
def keys(client: TestClient) -> dict[str, str]:
    """The Authorization headers of a tenant and of the administrator."""
    client.post("/admin/v1/tenants", json={"id": "caller"}, headers=ADMIN)
    issued = client.post("/admin/v1/tenants/caller/keys", json={}, headers=ADMIN).json()
    return {"tenant": f"Bearer {issued['key']}", "admin": ADMIN["authorization"]}


def give_time(body: Any) -> None:
    """A deadline of a few milliseconds would pass now and then, which is a 504."""
    dear = body.get("dear") if isinstance(body, dict) else None
    if isinstance(dear, dict) and type(dear.get("deadline_ms")) is int and 0 < dear["deadline_ms"] < 60_000:
        dear["deadline_ms"] = 60_000


@schema.parametrize()
def test_every_reply_is_as_the_document_says(
    case: schemathesis.Case[Any], client: TestClient, keys: dict[str, str]
) -> None:
    give_time(case.body)
    for one in case.operation.definition.raw.get("security", ()):
        case.headers["authorization"] = keys[next(iter(one))]
    request = requests.Request(**case.as_transport_kwargs("http://testserver")).prepare()
    assert request.method is not None
    assert request.url is not None
    reply = client.request(request.method, request.url, headers=dict(request.headers), content=request.body)
    sent[case.operation.label, reply.status_code] += 1
    case.validate_response(reply)
