"""What a client takes from the environment, and that keys stay secret."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from dear_client import AsyncClient, Client, ConfigurationError, Retry
from dear_client.client import _Driver
from dear_client.exchange import Send
from tests.client.conftest import Connect
from tests.client.raw_server import failure, http
from tests.client.shells import environment
from tests.client.test_sockets import Serve

KEY, ADMIN_KEY = "dear_very-secret-key", "dear_very-secret-root"


def sent(client: Client, as_admin: bool) -> str | None:
    """The authorization that a call of the client goes with."""
    driver: _Driver = client._driver
    call = client.admin._calls.tenant("acme") if as_admin else client._calls.models()
    return str(driver.wire.prepared(Send(call, 1, 1, 1)).headers.get("authorization", "")) or None


@pytest.mark.parametrize(
    ("variables", "given", "url", "key", "admin_key"),
    [
        ({}, {}, "http://127.0.0.1:8000", None, None),
        ({"DEAR_BASE_URL": ""}, {}, "http://127.0.0.1:8000", None, None),
        ({"DEAR_BASE_URL": " http://there:1/v1\n"}, {}, "http://there:1", None, None),
        ({"DEAR_BASE_URL": "http://there:1"}, {"base_url": "https://here"}, "https://here", None, None),
        ({"DEAR_API_KEY": "k"}, {}, "http://127.0.0.1:8000", "Bearer k", None),
        ({"DEAR_API_KEY": " k\n"}, {}, "http://127.0.0.1:8000", "Bearer k", None),
        ({"DEAR_API_KEY": "  "}, {}, "http://127.0.0.1:8000", None, None),
        ({"DEAR_API_KEY": "k"}, {"api_key": "mine"}, "http://127.0.0.1:8000", "Bearer mine", None),
        ({"DEAR_ADMIN_KEY": "r"}, {}, "http://127.0.0.1:8000", None, "Bearer r"),
        ({"DEAR_ADMIN_KEY": "r1, r2"}, {}, "http://127.0.0.1:8000", None, "Bearer r1"),
        ({"DEAR_ADMIN_KEY": "r"}, {"admin_key": "mine"}, "http://127.0.0.1:8000", None, "Bearer mine"),
        ({"DEAR_API_KEY": "k", "DEAR_ADMIN_KEY": "r"}, {}, "http://127.0.0.1:8000", "Bearer k", "Bearer r"),
    ],
)
def test_arguments_go_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    given: dict[str, str],
    url: str,
    key: str | None,
    admin_key: str | None,
) -> None:
    with environment(monkeypatch, **variables), Client(**given) as client:
        assert client.base_url == url
        assert (sent(client, as_admin=False), sent(client, as_admin=True)) == (key, admin_key)


@pytest.mark.parametrize("name", ["api_key", "admin_key"])
@pytest.mark.parametrize("key", ["schlüssel", "a\nb", "a\x00b", "a\r\nx-evil: 1", "🔑"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(name: str, key: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError) as caught:
            kind(**{name: key})
        assert str(caught.value) == f"{name}: it has characters that no key has"


@pytest.mark.parametrize("url", [f"http://user:{KEY}@host", f"http://user:{KEY}@host:port", f"ftp://{KEY}@h"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Client(url)
    assert str(caught.value) == "base_url: a user and password in it are not sent; use api_key"


async def test_keys_are_nowhere_to_be_read(
    connect: Connect, serve: Serve, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "dear_client")
    caplog.set_level(logging.INFO, "httpx")
    server = serve(lambda asked, on: on.sendall(http(failure("invalid_api_key", "no such key"), 401)))
    client = connect(server.url, api_key=KEY, admin_key=ADMIN_KEY, retry=Retry(attempts=2, first_s=0))
    shown = [repr(client.client), repr(client.client.admin), repr(client.client.__dict__)]
    for method, *given in (("models",), ("admin.tenants",), ("stream", "q", ["a"]), ("health",)):
        with pytest.raises(Exception, match="no such key") as caught:
            await client(method, *given)
        shown += [repr(caught.value), repr(vars(caught.value)), *traceback.format_exception(caught.value)]
    assert {asked.headers["authorization"] for asked in server.asked} == {
        f"Bearer {KEY}",
        f"Bearer {ADMIN_KEY}",
    }
    captured: Any = capsys.readouterr()
    text = "\n".join([*shown, caplog.text, captured.out, captured.err])
    assert "very-secret" not in text


async def test_calls_say_who_calls(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: on.sendall(http('{"status": "ok"}')))
    await connect(server.url)("health")
    headers = server.asked[0].headers
    assert headers["user-agent"].startswith("dear-client/")
    assert "authorization" not in headers
    assert headers["accept"] == "application/json, text/event-stream"
