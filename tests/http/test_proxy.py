"""What runs in Ray's HTTP proxy: headers that are too large, that never end, or that Ray cannot read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dear_serving.http import proxy

pytestmark = pytest.mark.attack


async def no_reply(scope: Scope, receive: Receive, send: Send) -> None:
    """As Ray's proxy where the gateway died."""


async def show(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the headers and the length of the body."""
    request = Request(scope, receive)
    body = await request.body()
    await JSONResponse({"headers": dict(request.headers), "body": len(body)})(scope, receive, send)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server as Ray's proxy starts it, with the callback's middlewares."""
    auto: Any = uvicorn.protocols.http.auto
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)  # put back afterwards
    monkeypatch.setattr(proxy, "_HEADERS_S", 0.5)
    app: Any = show
    for one in proxy.middlewares():
        app = one.cls(app, *one.args, **one.kwargs)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await running


async def answer(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def get(*headers: bytes) -> bytes:
    return b"\r\n".join((b"GET / HTTP/1.1", b"host: x", b"connection: close", *headers, b"", b""))


@pytest.mark.parametrize("value", [b"\xff\xfe", b"caf\xe9", b"a b", b"x" * 129, b""])
async def test_a_request_id_that_is_not_well_formed_is_left_out(port: int, value: bytes) -> None:
    reply = await answer(port, get(b"x-request-id: " + value, b"x-other: \xff", b"x-good: yes"))
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"x-request-id" not in reply
    assert b"x-other" not in reply
    assert b'"x-good":"yes"' in reply


async def test_a_well_formed_request_id_is_kept(port: int) -> None:
    assert b'"x-request-id":"trace-1:a.b"' in await answer(port, get(b"x-request-id: trace-1:a.b"))


@pytest.mark.parametrize(
    "request_",
    [
        (get(*(b"x-%d: y" % number for number in range(101))),),
        (get(b"x-large: " + b"y" * 70_000),),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-endless: ", *[b"y" * 10_000] * 7),
        (b"GET /" + b"y" * 70_000,),
    ],
    ids=["many", "large", "endless", "a long path"],
)
async def test_headers_over_the_limits_are_a_431(port: int, request_: tuple[bytes, ...]) -> None:
    assert (await answer(port, *request_)).startswith(b"HTTP/1.1 431 Request Header Fields Too Large")


@pytest.mark.parametrize("part", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_headers_that_do_not_come_end_the_connection(port: int, part: bytes) -> None:
    async with asyncio.timeout(3):
        assert await answer(port, part) == b""


async def test_headers_that_drip_end_the_connection(port: int) -> None:
    request = get(b"x-slow: " + b"y" * 100)
    async with asyncio.timeout(3):
        drops = (request[at : at + 1] for at in range(len(request)))
        assert await answer(port, *drops, pause_s=0.02) == b""


async def test_large_bodies_and_several_requests_of_one_connection_go_on(port: int) -> None:
    body = b"z" * 500_000
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    reply = await answer(port, post, post, get(), pause_s=0.1)
    assert reply.count(b"HTTP/1.1 200") == 3
    assert reply.count(b'"body":500000') == 2


async def test_a_slow_body_is_not_a_matter_of_headers(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\n"
    reply = await answer(port, head, b"a", b"b", b"c", b"d", pause_s=0.2)
    assert b'"body":4' in reply


async def test_what_is_not_http_is_a_400(port: int) -> None:
    assert (await answer(port, b"\x00\x01\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_a_request_whose_gateway_died_is_a_503_that_says_so() -> None:
    app: Any = no_reply
    for one in proxy.middlewares():
        app = one.cls(app, *one.args, **one.kwargs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as http:
        reply = await http.post("/v2/rerank", json={})
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "gateway_unavailable"
    assert reply.headers["retry-after"] == "1"


def answering(status: int, content: object, *, after_s: float = 0.0) -> ASGIApp:
    """An app that gives one reply: text as Ray's proxy does, anything else as a gateway does."""
    reply = PlainTextResponse(content, status) if isinstance(content, str) else JSONResponse(content, status)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(after_s)
        await reply(scope, receive, send)

    return app


@pytest.mark.parametrize(
    ("path", "app", "status", "said"),
    [
        ("/metrics", answering(404, "Path '/metrics' not found."), 503, "no gateway runs yet"),
        ("/metrics", answering(200, "never", after_s=60), 503, "no gateway runs yet"),
        ("/metrics", no_reply, 503, "the gateway died"),
        ("/metrics", answering(200, "dear_engines 1.0"), 200, "dear_engines 1.0"),
        ("/metrics", answering(401, {"detail": "no key"}), 401, "no key"),
        ("/metrics", answering(404, {"detail": "of a gateway"}), 404, "of a gateway"),
        ("/v2/rerank", answering(404, "Path '/v2/rerank' not found."), 404, "not found"),
        ("/v2/rerank", answering(200, "slow", after_s=0.6), 200, "slow"),
    ],
)
async def test_a_scrape_ends_while_no_gateway_runs(
    monkeypatch: pytest.MonkeyPatch, path: str, app: ASGIApp, status: int, said: str
) -> None:
    monkeypatch.setattr(proxy, "_SCRAPE_S", 0.3)
    transport = httpx.ASGITransport(proxy.AlwaysAnswered(proxy.ScrapesEnd(app)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        async with asyncio.timeout(20):
            reply = await http.get(path)
    assert (reply.status_code, said in reply.text) == (status, True)
    assert ("retry-after" in reply.headers) == (status == 503)
