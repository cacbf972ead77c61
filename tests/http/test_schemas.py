"""What the routes publish, and that the examples in it work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis

from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import router
from dear_serving.http.dialects.table import PATHS
from dear_serving.http.openapi import document
from tests.conftest import ROOT, client_of

ADMIN = {"authorization": "Bearer root"}
DOCUMENT = document(router.routes)
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
TAKE_A_BODY = [name for name in OPERATIONS if name.startswith(("POST ", "PATCH ", "PUT "))]

# Every operation once, in an order in which each finds what it works with.
ORDER = (
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /v1/models",
    "GET /v1/models/{name}",
    *(f"POST {path}" for path in PATHS),
    "POST /generative_scoring",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /admin/v1/tenants",
    "GET /admin/v1/tenants",
    "GET /admin/v1/tenants/{tenant}",
    "PATCH /admin/v1/tenants/{tenant}",
    "POST /admin/v1/tenants/{tenant}/grants",
    "DELETE /admin/v1/tenants/{tenant}/grants/{adapter}",
    "POST /admin/v1/tenants/{tenant}/keys",
    "GET /admin/v1/tenants/{tenant}/keys",
    "POST /admin/v1/keys/{key}/rotate",
    "DELETE /admin/v1/keys/{key}",
    "DELETE /admin/v1/tenants/{tenant}",
    "GET /admin/v1/audit",
    "GET /admin/v1/replicas",
    "POST /admin/v1/adapters",
    "GET /admin/v1/adapters",
    "GET /admin/v1/adapters/{name}",
    "POST /admin/v1/adapters/{name}/activate",
    "POST /admin/v1/adapters/{name}/rollback",
    "PATCH /admin/v1/adapters/{name}",
    "POST /admin/v1/adapters/{name}/retire",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference points at."""
    while "$ref" in schema:
        found: Any = DOCUMENT
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def examples_of(operation: dict[str, Any]) -> list[Any]:
    """The bodies that an operation shows."""
    content = operation["requestBody"]["content"]["application/json"]
    if "examples" in content:
        return [example["value"] for example in content["examples"].values()]
    return list(resolved(content["schema"])["examples"])


def test_the_committed_document_is_the_one_of_the_routes() -> None:
    assert json.loads((ROOT / "configs" / "openapi.json").read_text()) == DOCUMENT, "run make openapi"


@pytest.mark.parametrize("name", TAKE_A_BODY)
def test_a_route_that_takes_a_body_publishes_it_with_an_example(name: str) -> None:
    schema = OPERATIONS[name]["requestBody"]["content"]["application/json"]["schema"]
    for one in schema.get("anyOf", [schema]):
        assert resolved(one)["properties"]
    assert examples_of(OPERATIONS[name])


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_route_publishes_its_reply_and_its_errors(name: str) -> None:
    replies = OPERATIONS[name]["responses"]
    good = [resolved(reply) for status, reply in replies.items() if status < "300"]
    assert all(content for reply in good for content in reply["content"].values())
    errors = {status: resolved(reply) for status, reply in replies.items() if status >= "400"}
    assert all(reply["x-codes"] for reply in errors.values())
    if name in TAKE_A_BODY:
        assert {"400", "401", "408", "413", "415"} <= set(errors)


def test_every_operation_has_a_name_of_its_own() -> None:
    assert len({operation["operationId"] for operation in OPERATIONS.values()}) == len(OPERATIONS)


def test_rerank_publishes_its_dialects_and_how_they_are_told_apart() -> None:
    operation = OPERATIONS["POST /rerank"]
    assert "texts" in operation["description"]
    bodies = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert [body["$ref"].rpartition("/")[2] for body in bodies] == [
        "BedrockBody",
        "TeiBody",
        "PineconeBody",
        "VoyageBody",
        "RerankBody",
    ]


async def test_every_example_is_answered_as_published(served: GatewayState) -> None:
    assert sorted(ORDER) == sorted(OPERATIONS)
    published = schemathesis.openapi.from_dict(DOCUMENT)
    async with client_of(served) as http:
        await http.post("/admin/v1/tenants", json={"id": "caller"}, headers=ADMIN)
        issued = await http.post("/admin/v1/tenants/caller/keys", json={}, headers=ADMIN)
        keys = {"tenant": f"Bearer {issued.json()['key']}", "admin": ADMIN["authorization"]}
        known: dict[str, str] = {}
        for name in ORDER:
            method, _, path = name.partition(" ")
            if name.endswith("/activate"):  # another revision, to point the name at
                medical = {"name": "desk", "source": "medical"}
                await http.post("/admin/v1/adapters", json=medical, headers=ADMIN)
            for reply in await send(http, name, keys, known):
                assert reply.is_success, (name, reply.text)
                published[path][method].validate_response(reply)
                if name.endswith("/keys") and method == "POST":
                    known["key"] = reply.json()["id"]


async def send(
    http: httpx.AsyncClient, name: str, keys: dict[str, str], known: dict[str, str]
) -> list[httpx.Response]:
    """One reply for each example of an operation; ``known`` are path parameters that were not published."""
    operation, (method, _, path) = OPERATIONS[name], name.partition(" ")
    for parameter in operation.get("parameters", ()):
        if parameter.get("in") == "path":
            value = known.get(parameter["name"]) or parameter["schema"]["examples"][0]
            path = path.replace(f"{{{parameter['name']}}}", value)
    headers = [("authorization", keys[key]) for one in operation.get("security", ()) for key in one]
    bodies = examples_of(operation) if "requestBody" in operation else [None]
    return [await http.request(method, path, json=body, headers=headers) for body in bodies]


async def test_a_key_is_asked_for_where_the_document_says_so(with_tenants: GatewayState) -> None:
    async with client_of(with_tenants) as http:
        for name, operation in OPERATIONS.items():
            method, _, path = name.partition(" ")
            status = (await http.request(method, path)).status_code
            assert (status == 401) == bool(operation.get("security")), name


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_need_no_key_and_no_other_host(with_tenants: GatewayState, page: str) -> None:
    async with client_of(with_tenants) as http:
        reply = await http.get(page)
        assert reply.status_code == 200
        links = list(links_of(reply.text))
        assert len(links) >= 2
        for link in [*links, "/openapi.json"]:
            assert link.startswith("/"), link
            assert (await http.get(link)).status_code == 200, link


def links_of(html: str) -> Iterator[str]:
    """What a page has the browser fetch."""
    for attribute in ('src="', 'href="'):
        for rest in html.split(attribute)[1:]:
            yield rest.partition('"')[0]


async def test_a_method_that_a_path_does_not_have_is_told_those_it_has(with_tenants: GatewayState) -> None:
    async with client_of(with_tenants) as http:
        reply = await http.put("/admin/v1/tenants/acme", headers=ADMIN)
    assert (reply.status_code, reply.headers["allow"]) == (405, "DELETE, GET, PATCH")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/adapters", {"name": "new", "source": "legal", "wait_s": False}, "wait_s"),
        ("/adapters", {"name": "new", "source": "legal", "activate": "yes"}, "activate"),
        ("/adapters/legal/rollback", {"wait_s": "1"}, "wait_s"),
    ],
)
async def test_values_of_another_type_are_refused_for_adapters_as_for_tenants(
    with_tenants: GatewayState, path: str, body: dict[str, Any], param: str
) -> None:
    async with client_of(with_tenants) as http:
        reply = await http.post(f"/admin/v1{path}", json=body, headers=ADMIN)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
