"""The Host header: whose name the server answers to, and that it sends no caller elsewhere."""

from __future__ import annotations

import dataclasses

import httpx
import pytest

from dear_serving.gateway.authenticator import Authenticator, hash_keys
from dear_serving.gateway.state import GatewayState
from dear_serving.settings import HttpSettings
from tests.conftest import client_of

pytestmark = pytest.mark.attack

LOOPBACK = ["localhost", "localhost:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000", "LOCALHOST."]
OTHERS = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "192.168.0.7",
    "",
    "[::1",
    "a@localhost",
]


def with_http(gateway: GatewayState, **http: object) -> GatewayState:
    """The gateway with these settings under ``http``."""
    settings = gateway.settings.model_copy(update={"http": HttpSettings(**http)})
    return dataclasses.replace(gateway, settings=settings)


async def status(gateway: GatewayState, host: str) -> int:
    return (await client_of(gateway).get("/health", headers={"Host": host})).status_code


@pytest.mark.parametrize("path", ["/v2/rerank/", "/health/", "/v1/models/", "/admin/v1/tenants/"])
async def test_a_slash_too_many_is_no_redirect_to_the_callers_host(
    path: str, http: httpx.AsyncClient
) -> None:
    for method in ("GET", "POST"):
        reply = await http.request(method, path, headers={"Host": "evil.example"})
        assert not reply.is_redirect
        assert "location" not in reply.headers
        assert "evil.example" not in reply.text


@pytest.mark.parametrize("host", LOOPBACK)
async def test_an_open_server_on_loopback_answers_to_loopback(host: str, gateway: GatewayState) -> None:
    assert await status(with_http(gateway), host) == 200


@pytest.mark.parametrize("host", OTHERS)
async def test_an_open_server_on_loopback_answers_to_no_other_name(host: str, gateway: GatewayState) -> None:
    """A page in a browser on the machine can have its own name lead to 127.0.0.1."""
    reply = await client_of(with_http(gateway)).get("/health", headers={"Host": host})
    assert reply.status_code == 400
    assert "http.allowed_hosts" in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == "Host"


async def test_a_server_with_keys_or_on_a_network_answers_to_every_name(gateway: GatewayState) -> None:
    closed = dataclasses.replace(gateway, authenticator=Authenticator(gateway.tenants, hash_keys(["key"])))
    assert await status(with_http(closed), "api.example.com") == 200
    assert await status(with_http(gateway, host="0.0.0.0"), "api.example.com") == 200


async def test_allowed_hosts_are_all_that_it_answers_to(gateway: GatewayState) -> None:
    named = with_http(gateway, host="0.0.0.0", allowed_hosts=("api.example.com", "*.Internal", "::1"))
    for host in ("api.example.com", "API.example.com:443", "a.internal", "a.b.internal:80", "[::1]:8000"):
        assert await status(named, host) == 200
    for host in ("example.com", "localhost", "internal", "api.example.com.evil.example"):
        assert await status(named, host) == 400
    assert await status(with_http(gateway, allowed_hosts=("*",)), "evil.example") == 200
