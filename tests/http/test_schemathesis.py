"""Requests made from the OpenAPI document, valid and invalid: no 5xx, every reply as the document says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from starlette.testclient import TestClient

from dear_serving.gateway.rerank_service import GatewayState
from dear_serving.http.routes import create_app
from dear_serving.replica.adapter_sync import AdapterSync
from tests.conftest import ROOT

logger = logging.getLogger(__name__)

ADMIN = {"authorization": "Bearer root"}
CONFIG = {
    "seed": 0,
    "suppress-health-check": ["all"],
    # Sends requests of its own, for which it would need a server; test_schemas.py has keys.
    "checks": {"ignored_auth": {"enabled": False}},
    "generation": {
        "max-examples": 15,
        "deterministic": True,
        "with-security-parameters": False,
        "database": "none",
    },
}
schema = schemathesis.openapi.from_path(
    ROOT / "configs" / "openapi.json", config=schemathesis.Config.from_dict(CONFIG)
)
sent: Counter[tuple[str, int]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def summary() -> Iterator[None]:
    """Logs what was sent and answered."""
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


@schema.parametrize()
def test_every_reply_is_as_the_document_says(case: schemathesis.Case, client: TestClient) -> None:
    operation = case.operation.definition.raw
    keys = [name for one in operation.get("security", ()) for name in one]
    if "tenant" in keys:
        issued = client.post("/admin/v1/tenants/acme/keys", json={}, headers=ADMIN)
        case.headers["authorization"] = f"Bearer {issued.json()['key']}"
    if "admin" in keys:
        case.headers["authorization"] = "Bearer root"
    request = requests.Request(**case.as_transport_kwargs("http://testserver")).prepare()
    reply = client.request(
        request.method or "", request.url or "", headers=dict(request.headers), content=request.body
    )
    sent[case.operation.label, reply.status_code] += 1
    case.validate_response(reply)
