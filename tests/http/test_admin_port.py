"""http.admin_port: two sockets of one server, as Ray's proxy has them, and what each answers."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from ray.serve._private import http_util
from ray.serve.config import HTTPOptions
from starlette.responses import PlainTextResponse

from dear_serving.errors import SettingsError
from dear_serving.gateway.state import GatewayState
from dear_serving.http import proxy
from dear_serving.http.app import create_app
from dear_serving.process.background import free_port
from dear_serving.settings import ADMIN_PORT_VARIABLE

pytestmark = pytest.mark.attack

ADMIN = {"authorization": "Bearer root"}
RERANK = {"query": "q", "documents": ["a", "b"]}


@pytest.fixture(autouse=True)
def _as_in_rays_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray knows our callback; what that changes in uvicorn is put back afterwards."""
    auto: Any = uvicorn.protocols.http.auto
    monkeypatch.setattr(uvicorn, "Server", uvicorn.Server)
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    callback = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    monkeypatch.setattr(http_util, callback, "dear_serving.http.proxy.middlewares")
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "level", logging.CRITICAL)


class Ports:
    """Clients of the two ports."""

    def __init__(self, main: int, admin: int) -> None:
        self.main, self.admin = (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{one}") for one in (main, admin)
        )


@pytest.fixture
async def ports(with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ports]:
    """A gateway behind the server that Ray's proxy makes, whose metrics are open."""
    admin_port = free_port()
    monkeypatch.setenv(ADMIN_PORT_VARIABLE, str(admin_port))
    settings = with_tenants.settings
    http = settings.http.model_copy(update={"admin_port": admin_port})
    tenancy = settings.tenancy.model_copy(update={"open_metrics": True})
    gateway = dataclasses.replace(
        with_tenants, settings=settings.model_copy(update={"http": http, "tenancy": tenancy})
    )
    ports = Ports(free_port(), admin_port)
    running, server = await start(create_app(gateway), ports.main.base_url.port or 0)
    yield ports
    await ports.main.aclose()
    await ports.admin.aclose()
    server.should_exit = True
    await running


async def start(app: Any, port: int) -> tuple[asyncio.Task[None], Any]:
    """Ray's own way to start its proxy's server, with our callback."""
    options = http_util.configure_http_middlewares(HTTPOptions(host="127.0.0.1", port=port))
    found: tuple[asyncio.Task[None], Any] = await http_util.start_asgi_http_server(
        app, options, event_loop=asyncio.get_running_loop()
    )
    return found


async def key_of_a_tenant(ports: Ports) -> dict[str, str]:
    made = await ports.admin.post("/admin/v1/tenants", json={"id": "acme"}, headers=ADMIN)
    assert made.status_code == 201
    issued = await ports.admin.post("/admin/v1/tenants/acme/keys", json={"label": "test"}, headers=ADMIN)
    return {"authorization": f"Bearer {issued.json()['key']}"}


ADMIN_PATHS = [
    ("GET", "/admin/v1/tenants"),
    ("GET", "/admin/v1/adapters"),
    ("GET", "/admin/v1/nothing"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_PATHS)
async def test_the_main_port_has_no_admin_route_whatever_the_caller_claims(
    ports: Ports, method: str, path: str
) -> None:
    port = ports.admin.base_url.port
    forged = ADMIN | {
        "host": f"127.0.0.1:{port}",
        "x-forwarded-port": str(port),
        "x-forwarded-host": f"127.0.0.1:{port}",
        "forwarded": f"host=127.0.0.1:{port}",
    }
    for headers in ({}, ADMIN, forged):
        reply = await ports.main.request(method, path, json={}, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "route_not_found")
        assert reply.json()["message"] == f"there is no {path} on this port"


async def test_the_admin_port_has_the_admin_routes_and_nothing_of_tenants(ports: Ports) -> None:
    key = await key_of_a_tenant(ports)
    assert (await ports.main.post("/v2/rerank", json=RERANK, headers=key)).status_code == 200
    for path in ("/v2/rerank", "/v1/chat/completions"):
        assert (await ports.admin.post(path, json=RERANK, headers=key)).status_code == 404
    for path in ("/v1/models", "/docs", "/openapi.json"):
        assert (await ports.admin.get(path, headers=key)).status_code == 404
    assert (await ports.admin.get("/admin/v1/tenants")).status_code == 401


async def test_the_fleets_page_is_where_its_routes_are(ports: Ports) -> None:
    assert (await ports.main.get("/fleet")).status_code == 404
    page = await ports.admin.get("/fleet")
    assert page.status_code == 200
    for asset in re.findall(r'"(/page/[^"]+)"', page.text):
        assert (await ports.admin.get(asset)).status_code == 200
    assert (await ports.admin.get("/")).status_code == 404
    for path in ("/admin/v1/replicas", "/metrics"):
        assert (await ports.admin.get(path, headers=ADMIN)).status_code == 200


async def test_probes_are_answered_on_both_ports(ports: Ports) -> None:
    for client in (ports.main, ports.admin):
        assert [(await client.get(path)).status_code for path in ("/health", "/ready")] == [200, 200]


async def test_open_metrics_are_open_on_the_admin_port_alone(ports: Ports) -> None:
    key = await key_of_a_tenant(ports)
    await ports.main.post("/v2/rerank", json=RERANK, headers=key)
    assert "dear_requests_in_flight" in (await ports.admin.get("/metrics")).text
    for headers in ({}, ADMIN):
        assert (await ports.main.get("/metrics", headers=headers)).status_code == 401
    own = await ports.main.get("/metrics", headers=key)
    assert own.status_code == 200
    assert 'tenant="acme"' in own.text
    assert "dear_requests_in_flight" not in own.text


def test_a_server_whose_admin_port_is_taken_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv(ADMIN_PORT_VARIABLE, str(port))
        proxy.middlewares()
        with pytest.raises(SettingsError) as refusal:
            uvicorn.Server(uvicorn.Config(PlainTextResponse("x"), host="127.0.0.1", log_config=None))
    expected = f"http.admin_port: cannot listen on 127.0.0.1:{port}: address already in use"
    assert refusal.value.message == expected


async def test_without_an_admin_port_there_is_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADMIN_PORT_VARIABLE, raising=False)
    port = free_port()
    running, server = await start(PlainTextResponse("x"), port)
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"http://127.0.0.1:{port}/")).text == "x"
    assert len(server.servers) == 1
    server.should_exit = True
    await running


@pytest.mark.parametrize("port", ["0", "65536", "-1", "eight", "80 "])
def test_what_is_no_port_is_named(port: str) -> None:
    with pytest.raises(SettingsError, match=f"{ADMIN_PORT_VARIABLE}: {port} is no port"):
        proxy.listen("127.0.0.1", port)
