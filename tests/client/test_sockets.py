"""Both clients over real sockets, and servers that do everything wrong: each ends in time, in a sentence."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dear_client import (
    AnswerTimeout,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    ConnectionTimeout,
    InternalError,
    InvalidCall,
    Retry,
    Timeout,
    UnexpectedReply,
)
from tests.client.conftest import Connect
from tests.client.raw_server import Asked, RawServer, Script, failure, http, rank_all, ranking
from tests.client.test_events import ODD, event, rank, stream

pytestmark = pytest.mark.integration

Serve = Callable[[Script], RawServer]

ONCE = Retry(attempts=1)
QUICK = Retry(attempts=3, first_s=0.01, most_s=0.02)
TEXTS = ["alpha", "beta", "gamma"]
STREAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def failing(work: Any, kind: type[ClientError], message: str, within_s: float = 3.0) -> ClientError:
    """The error of ``work``: of that very kind, with that sentence (a pattern), in time."""
    started_s = time.monotonic()
    with pytest.raises(ClientError) as caught:
        await work
    took_s = time.monotonic() - started_s
    assert type(caught.value) is kind, repr(caught.value)
    assert re.fullmatch(message, str(caught.value)), str(caught.value)
    assert took_s < within_s
    return caught.value


# No connection.


async def test_a_server_that_is_down(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    client = connect(url, retry=QUICK)
    for method, *given in (("rerank", "q", TEXTS), ("stream", "q", TEXTS)):
        await failing(
            client(method, *given),
            ConnectionFailed,
            f"no server answers at {url}/v2/rerank: connection refused( or no route)?",
        )


async def test_a_host_that_does_not_resolve(connect: Connect) -> None:
    client = connect("http://nobody.invalid:8000", retry=QUICK)
    await failing(
        client("models"),
        ConnectionFailed,
        r"no server answers at http://nobody\.invalid:8000/v1/models: .*(name|resolution).*",
        within_s=20,
    )


@pytest.mark.parametrize(
    "url",
    [
        *(
            "localhost:8000",
            "ftp://localhost",
            "http://",
            "http:///path",
            "//localhost",
            "127.0.0.1",
            "http://[::1",
        ),
        *(
            "http://localhost:port",
            "http://localhost:99999",
            "http://localhost:-1",
            "http://a..b",
            "http://.",
        ),
        *(
            f"http://{'a' * 64}.org",
            "http://localhost?tenant=a",
            "http://localhost/#top",
            "http://a\nb",
            "\x00",
        ),
    ],
)
def test_a_url_that_is_none_is_refused_when_the_client_is_made(url: str) -> None:
    from dear_client import AsyncClient, Client

    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError) as caught:
            kind(url)
        assert str(caught.value) == f"base_url: {url!r} is no URL such as http://127.0.0.1:8000"


async def test_nobody_takes_the_connection(connect: Connect) -> None:
    """A listener whose queue is full: further connections get no answer at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        client = connect(f"http://127.0.0.1:{port}", timeout=Timeout(connect_s=0.2), retry=ONCE)
        await failing(
            client("ready"),
            ConnectionTimeout,
            f"no connection to http://127.0.0.1:{port}/ready within 0.2 s",
        )
        for one in waiting:
            one.close()


# Something else answers.


async def test_html_instead_of_json(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: on.sendall(http("<h1>Welcome</h1>", kind="text/html")))
    client = connect(server.url)
    await failing(
        client("rerank", "q", TEXTS),
        UnexpectedReply,
        f"{server.url}/v2/rerank: answered HTTP 200 with text/html instead of JSON, so this is probably "
        "another server's address: <h1>Welcome</h1>",
    )
    await failing(
        client.stream("q", TEXTS),
        UnexpectedReply,
        f"{server.url}/v2/rerank: answered with text/html instead of a stream",
    )
    assert len(server.asked) == 2


async def test_a_redirect_says_where_to(connect: Connect, serve: Serve) -> None:
    server = serve(
        lambda asked, on: on.sendall(http("", 301, kind="text/html", location="https://h/v2/rerank"))
    )
    error = await failing(connect(server.url)("rerank", "q", TEXTS), UnexpectedReply, ".*")
    assert "and leads to https://h/v2/rerank" in str(error)


async def test_a_proxys_page_for_a_server_that_is_gone(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: on.sendall(http("<h1>Bad Gateway</h1>", 502, kind="text/html")))
    await failing(
        connect(server.url)("models"),
        InternalError,
        f"{server.url}/v1/models answered HTTP 502 without a reason",
    )
    assert len(server.asked) == 1


async def test_something_that_is_not_http(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: on.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))
    await failing(
        connect(server.url, retry=ONCE)("ready"),
        ConnectionFailed,
        f"the connection to {server.url}/ready broke before it answered: illegal status line: .*",
    )


async def test_a_content_encoding_that_is_a_lie(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: on.sendall(http('{"a": 1}', content_encoding="gzip")))
    client = connect(server.url)
    await failing(
        client("ready"), UnexpectedReply, f"{server.url}/ready answered what cannot be decompressed"
    )
    assert len(server.asked) == 1


# Replies that stop.


async def test_a_server_that_hangs_up_before_it_answers(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: False)
    client = connect(server.url, retry=QUICK)
    await failing(
        client("rerank", "q", TEXTS),
        ConnectionFailed,
        f"the connection to {server.url}/v2/rerank broke before it answered: server disconnected without "
        "sending a response.?",
    )
    assert len(server.asked) == QUICK.attempts
    assert len({asked.headers["x-request-id"] for asked in server.asked}) == 1


async def test_what_must_not_happen_twice_is_sent_once(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: False)
    client = connect(server.url, retry=QUICK, admin_key="root")
    await failing(client("admin.create_tenant", "acme"), ConnectionFailed, "the connection to .* broke .*")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("cut", "came"),
    [
        (http('{"results": [', content_length="100"), "13 of 100 bytes"),
        (http("", content_length="100"), "0 of 100 bytes"),
        (STREAMED.replace(b"text/event-stream", b"application/json") + chunk(b'{"results": ['), "13 bytes"),
    ],
    ids=["length", "nothing", "chunked"],
)
async def test_a_reply_that_is_cut(connect: Connect, serve: Serve, cut: bytes, came: str) -> None:
    def script(asked: Asked, on: socket.socket) -> bool:
        on.sendall(cut)
        return False

    server = serve(script)
    client = connect(server.url, retry=QUICK)
    error = await failing(
        client("rerank", "q", TEXTS),
        ConnectionFailed,
        f"the connection to {server.url}/v2/rerank broke half-way: {came} of the reply came",
    )
    assert len(server.asked) == QUICK.attempts
    assert error.request_id == server.asked[0].headers["x-request-id"]


async def test_a_reply_that_was_cut_is_asked_for_again(connect: Connect, serve: Serve) -> None:
    def script(asked: Asked, on: socket.socket) -> bool | None:
        if asked.number == 0:
            on.sendall(http('{"resu', content_length="100"))
            return False
        return rank_all(asked, on)

    assert (await connect(serve(script).url, retry=QUICK)("rerank", "q", TEXTS)).order == (2, 1, 0)


# Time.


async def test_a_server_that_never_answers(connect: Connect, serve: Serve) -> None:
    server = serve(lambda asked, on: None)
    client = connect(server.url, timeout=Timeout(answer_s=0.3))
    for method, *given in (("rerank", "q", TEXTS), ("stream", "q", TEXTS)):
        await failing(
            client(method, *given),
            AnswerTimeout,
            f"no answer from {server.url}/v2/rerank within 0.3 s",
        )
    assert len(server.asked) == 2


def dripping(start: bytes, stopped: threading.Event) -> Script:
    """Sends a byte every 50 ms, for ever."""

    def script(asked: Asked, on: socket.socket) -> bool:
        on.sendall(start)
        while not stopped.wait(0.05):
            on.sendall(b" ")
        return False

    return script


@pytest.mark.parametrize(
    "start",
    [
        http("{", content_length="1000000"),
        http("{", status=500, content_length="1000000"),
    ],
    ids=["200", "500"],
)
@pytest.mark.parametrize("method", ["rerank", "stream"])
async def test_a_byte_at_a_time_does_not_outlast_the_total(
    connect: Connect, serve: Serve, start: bytes, method: str
) -> None:
    if method == "stream" and b" 200 " in start:
        start = start.replace(b"application/json", b"text/event-stream")
    stopped = threading.Event()
    server = serve(dripping(start, stopped))
    client = connect(server.url, timeout=Timeout(answer_s=5, total_s=0.8))
    late = f"no answer from {server.url}/v2/rerank within 0.8 s"
    kind: type[ClientError] = AnswerTimeout
    if b"event-stream" in start:
        late = f"{server.url}/v2/rerank sent nothing more in time before the ranking was whole"
        kind = ConnectionFailed
    await failing(client(method, "q", TEXTS), kind, late, within_s=3)
    stopped.set()


async def test_headers_a_byte_at_a_time_do_not_outlast_the_total_on_asyncio(serve: Serve) -> None:
    from dear_client import AsyncClient

    stopped = threading.Event()
    server = serve(dripping(b"HTTP/1.1 200 OK\r\nx-slow: ", stopped))
    async with AsyncClient(server.url, timeout=Timeout(answer_s=5, total_s=0.4)) as client:
        await failing(client.ready(), AnswerTimeout, ".* within 0.4 s", within_s=1.5)
    stopped.set()


async def test_attempts_and_waits_share_the_total(connect: Connect, serve: Serve) -> None:
    def script(asked: Asked, on: socket.socket) -> None:
        time.sleep(0.15)
        on.sendall(http(failure("overloaded", "too much work ahead"), 429))

    server = serve(script)
    client = connect(
        server.url, timeout=Timeout(total_s=3), retry=Retry(attempts=50, first_s=0.1, most_s=0.1)
    )
    started_s = time.monotonic()
    with pytest.raises(ClientError):
        await client("ready")
    assert time.monotonic() - started_s < 8  # 50 attempts and waits would take 12
    assert 2 <= len(server.asked) <= 13


async def test_retry_after_is_waited_for(connect: Connect, serve: Serve) -> None:
    at_s: list[float] = []

    def script(asked: Asked, on: socket.socket) -> None:
        at_s.append(time.monotonic())
        refused = http(failure("overloaded", "too much work ahead"), 429, retry_after="1")
        on.sendall(refused if asked.number == 0 else http(ranking(asked)))

    assert (await connect(serve(script).url)("rerank", "q", TEXTS)).order == (2, 1, 0)
    assert 1.0 <= at_s[1] - at_s[0] < 2.0


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
async def test_who_wants_no_limit_gets_none(connect: Connect, serve: Serve, seconds: float) -> None:
    timeout = Timeout(connect_s=seconds, answer_s=seconds, total_s=seconds)
    client = connect(serve(rank_all).url, timeout=timeout)
    assert (await client("rerank", "q", TEXTS)).order == (2, 1, 0)


# Connections are kept.


async def test_one_connection_serves_many_calls(connect: Connect, serve: Serve) -> None:
    server = serve(rank_all)
    client = connect(server.url)
    for _ in range(5):
        await client("rerank", "q", TEXTS)
    assert (len(server.asked), server.connections) == (5, 1)


async def test_a_kept_connection_that_the_server_closed_is_no_error(connect: Connect, serve: Serve) -> None:
    def script(asked: Asked, on: socket.socket) -> bool:
        rank_all(asked, on)
        return False

    server = serve(script)
    client = connect(server.url, retry=QUICK)
    for _ in range(5):
        assert (await client("rerank", "q", TEXTS)).order == (2, 1, 0)
        await asyncio.sleep(0.01)


async def test_a_kept_connection_that_breaks_as_it_is_used_is_no_error(
    connect: Connect, serve: Serve
) -> None:
    """The server closes just when the next request is on its way: it is read and not answered."""

    def script(asked: Asked, on: socket.socket) -> bool | None:
        return False if asked.number % 2 else rank_all(asked, on)

    server = serve(script)
    client = connect(server.url, retry=QUICK)
    for _ in range(3):
        assert (await client("rerank", "q", TEXTS)).order == (2, 1, 0)
    assert server.connections == 3


# Streams.


def streaming(*parts: bytes, then: Callable[[], object] = lambda: None) -> Script:
    """A chunk for each part, then ``then``, then the connection is closed."""

    def script(asked: Asked, on: socket.socket) -> bool:
        on.sendall(STREAMED)
        for part in parts:
            on.sendall(chunk(part) if part else b"0\r\n\r\n")
        then()
        return False

    return script


async def test_ranks_come_as_they_are_sent(connect: Connect, serve: Serve) -> None:
    go_on = threading.Event()

    def script(asked: Asked, on: socket.socket) -> None:
        assert asked.json()["dear"] == {"stream": True}
        on.sendall(STREAMED + chunk(rank(0, 2)))
        go_on.wait(5)
        rest = stream(2, 0, 1).removeprefix(rank(0, 2))
        on.sendall(chunk(rest[:70]) + chunk(rest[70:]) + b"0\r\n\r\n")

    server = serve(script)
    client = connect(server.url)
    async with client.streaming("q", TEXTS) as told:
        ranks = aiter(told)
        assert (await anext(ranks)).document is TEXTS[2]
        with pytest.raises(ConnectionFailed):
            _ = told.ranking
        go_on.set()
        assert [one.index async for one in ranks] == [0, 1]
        assert told.ranking.warnings == (ODD,)
        assert [one async for one in told] == []
    await client.stream("q", TEXTS)
    assert server.connections == 1


async def test_a_loop_that_was_left_can_be_taken_up(connect: Connect, serve: Serve) -> None:
    client = connect(serve(streaming(stream(2, 0, 1), b"")).url)
    async with client.streaming("q", TEXTS) as told:
        async for one in told:
            assert one.index == 2
            break
        assert [one.index async for one in told] == [0, 1]
        assert told.ranking.order == (2, 0, 1)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ((rank(0, 2),), "broke off"),
        ((rank(0, 2), rank(1, 0)[:20]), "broke off"),
        ((rank(0, 2), b""), "ended the stream"),
        ((b"",), "ended the stream"),
    ],
)
async def test_a_stream_that_is_cut(
    connect: Connect, serve: Serve, parts: tuple[bytes, ...], what: str
) -> None:
    server = serve(streaming(*parts))
    client = connect(server.url, retry=QUICK)
    came = []

    async def read() -> None:
        async with client.streaming("q", TEXTS) as told:
            async for one in told:
                came.append(one.index)

    message = f"{server.url}/v2/rerank {what} before the ranking was whole"
    error = await failing(read(), ConnectionFailed, message)
    assert came == [2][: len(parts[0])]
    assert error.request_id == server.asked[0].headers["x-request-id"]
    assert len(server.asked) == 1


async def test_a_stream_that_is_cut_after_the_ranking_is_whole(connect: Connect, serve: Serve) -> None:
    ranks, found = await connect(serve(streaming(stream(2, 0, 1))).url).stream("q", TEXTS)
    assert [one.index for one in ranks] == list(found.order) == [2, 0, 1]


async def test_a_stream_that_stalls(connect: Connect, serve: Serve) -> None:
    stopped = threading.Event()
    server = serve(streaming(rank(0, 2), then=lambda: stopped.wait(5)))
    client = connect(server.url, timeout=Timeout(answer_s=0.3))
    await failing(
        client.stream("q", TEXTS),
        ConnectionFailed,
        f"{server.url}/v2/rerank sent nothing more in time before the ranking was whole",
    )
    stopped.set()


async def test_a_stream_of_something_else(connect: Connect, serve: Serve) -> None:
    server = serve(streaming(event("rank", {"rank": 0, "index": 9, "relevance_score": 0.5}), b""))
    await failing(
        connect(server.url).stream("q", TEXTS),
        UnexpectedReply,
        f"{server.url}/v2/rerank: the stream has an event that cannot be read: .*",
    )


async def test_a_stream_is_tried_again_until_it_begins(connect: Connect, serve: Serve) -> None:
    def script(asked: Asked, on: socket.socket) -> bool | None:
        match asked.number:
            case 0:
                on.sendall(http(failure("engine_unavailable", "restarting"), 503, retry_after="0"))
                return None
            case 1:
                return False
            case _:
                return streaming(stream(2, 0, 1), b"")(asked, on)

    server = serve(script)
    _, found = await connect(server.url, retry=QUICK).stream("q", TEXTS)
    assert found.order == (2, 0, 1)
    assert len(server.asked) == 3


async def test_leaving_a_stream_closes_its_connection(connect: Connect, serve: Serve) -> None:
    gone = threading.Event()

    def script(asked: Asked, on: socket.socket) -> bool:
        on.sendall(STREAMED + chunk(rank(0, 2)))
        on.settimeout(5)
        if on.recv(1) == b"":
            gone.set()
        return False

    client = connect(serve(script).url)
    with pytest.raises(RuntimeError, match="of the caller's"):
        async with client.streaming("q", TEXTS) as told:
            await anext(aiter(told))
            raise RuntimeError("of the caller's")
    assert await asyncio.to_thread(gone.wait, 5)


async def test_a_stream_is_read_inside_its_with(connect: Connect, serve: Serve) -> None:
    client = connect(serve(streaming(stream(2, 0, 1), b"")).url)
    async with client.streaming("q", TEXTS) as told:
        pass
    with pytest.raises((InvalidCall, ConnectionFailed)):
        _ = [one async for one in told]
        _ = told.ranking


# Cancellation.


async def test_cancelling_a_call_on_asyncio_closes_its_connection(serve: Serve) -> None:
    from dear_client import AsyncClient

    came, gone = threading.Event(), threading.Event()

    def script(asked: Asked, on: socket.socket) -> bool:
        came.set()
        if on.recv(1) == b"":
            gone.set()
        return False

    async with AsyncClient(serve(script).url) as client:
        task: asyncio.Task[Any] = asyncio.create_task(client.rerank("q", TEXTS))
        assert await asyncio.to_thread(came.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone.wait, 5)


def test_a_blocking_client_keeps_as_many_connections_as_it_had_at_once(serve: Serve) -> None:
    """Closing those over some limit would cut off other threads (see client.py)."""
    from dear_client import Client

    together = threading.Barrier(30)

    def script(asked: Asked, on: socket.socket) -> None:
        together.wait(5)
        rank_all(asked, on)

    server = serve(script)
    with Client(server.url) as client:
        for _ in range(3):
            ranked = client.rerank_many([{"query": "q", "documents": TEXTS}] * 30, concurrency=30)
            assert not [one for one in ranked if isinstance(one, ClientError)]
    assert (len(server.asked), server.connections) == (90, 30)


def test_one_blocking_client_serves_many_threads(serve: Serve) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from dear_client import Client

    with Client(serve(rank_all).url) as client, ThreadPoolExecutor(16) as pool:
        orders = pool.map(lambda count: len(client.rerank("q", ["x"] * count).order), range(1, 101))
        assert list(orders) == list(range(1, 101))
