"""How the server process ends: requests first, and of a Ray that is not its own only its application."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from ray import serve

from dear_serving.app import APP_NAME, GATEWAY_NAME
from dear_serving.errors import SettingsError
from dear_serving.settings import ADMIN_PORT_VARIABLE, Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def runtime() -> Any:
    """The module, without the variables that it sets for Ray: other tests share this process."""
    before = dict(os.environ)
    module = importlib.import_module("dear_serving.process.runtime")
    os.environ.clear()
    os.environ.update(before)
    return module


class Gateways:
    """A handle of the gateways: each look finds that many requests in flight, at last for ever."""

    def __init__(self, *in_flight: list[int]) -> None:
        self.in_flight = list(in_flight)
        self.asked: list[tuple[str, float]] = []

    def broadcast(self, method: str, serve_s: float) -> Gateways:
        self.asked.append((method, serve_s))
        return self

    def results(self, timeout_s: float) -> list[int]:
        return self.in_flight.pop(0) if len(self.in_flight) > 1 else self.in_flight[0]


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Callable[[Gateways], Gateways]:
    def put(gateways: Gateways) -> Gateways:
        def handle(name: str, app: str) -> Gateways:
            assert (name, app) == (GATEWAY_NAME, APP_NAME)
            return gateways

        monkeypatch.setattr(serve, "get_deployment_handle", handle)
        return gateways

    return put


def test_it_ends_at_once_where_nothing_is_in_flight(
    runtime: Any, over: Callable[[Gateways], Gateways]
) -> None:
    gateways = over(Gateways([0, 0]))
    runtime._drain(600)
    assert gateways.asked == [("drain", 200.0)]


def test_it_waits_until_the_last_gateway_has_none(
    runtime: Any, over: Callable[[Gateways], Gateways], capsys: pytest.CaptureFixture[str]
) -> None:
    gateways = over(Gateways([0, 2], [0, 1], [0, 0]))
    runtime._drain(600)
    assert len(gateways.asked) == 3
    assert "2 requests in flight are finished first" in capsys.readouterr().err


def test_it_waits_no_longer_than_it_may(runtime: Any, over: Callable[[Gateways], Gateways]) -> None:
    over(Gateways([1]))
    began_s = time.monotonic()
    runtime._drain(1.0)
    assert time.monotonic() - began_s < 20


@pytest.mark.parametrize(("address", "done"), [(None, "shutdown"), ("ray://cluster", f"delete {APP_NAME}")])
def test_in_a_ray_of_the_users_only_our_application_goes(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, address: str | None, done: str
) -> None:
    seen: list[str] = []

    def delete(name: str, *arguments: Any) -> None:
        seen.append(f"delete {name}")

    monkeypatch.setattr(serve, "shutdown", lambda: seen.append("shutdown"))
    monkeypatch.setattr(serve, "delete", delete)
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    runtime._close_serve()
    assert seen == [done]


@pytest.mark.parametrize("port", [None, 8001])
def test_rays_proxy_is_told_the_admin_port_and_no_other(
    port: int | None, runtime: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(ADMIN_PORT_VARIABLE, "1")
    http = settings.http.model_copy(update={"admin_port": port})
    runtime._tell_admin_port(settings.model_copy(update={"http": http}))
    assert os.environ.get(ADMIN_PORT_VARIABLE) == (None if port is None else "8001")


def test_a_ray_of_the_users_has_to_know_the_admin_port(
    runtime: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.delenv(ADMIN_PORT_VARIABLE, raising=False)
    http = settings.http.model_copy(update={"admin_port": 8001})
    with pytest.raises(
        SettingsError, match="DEAR_ADMIN_PORT is not set; set it to 8001 where Ray is started"
    ):
        runtime._tell_admin_port(settings.model_copy(update={"http": http}))
