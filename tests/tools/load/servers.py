"""Servers for load tests: one that says what a test wants it to say, and the trivial one, in threads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.trivial_server import Behaviour, Connection

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came: when (time.perf_counter), what for, and with which key."""

    at_s: float
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def is_ranking(self) -> bool:
        """Whether something is to be ranked."""
        return self.path == "/v2/rerank"

    @property
    def count(self) -> int:
        """How many documents there are to rank."""
        return len(self.body["documents"])


Respond = Callable[[Asked], Awaitable[bytes]]
"""The bytes of a reply; none at all close the connection."""


@dataclass(slots=True)
class Served:
    """A server that runs: where, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def rankings(self) -> list[Asked]:
        """The rankings among what it was asked, in their order."""
        return [one for one in self.asked if one.is_ranking]


def reply(status: int, body: object, **headers: str) -> bytes:
    """A reply with JSON, or with the text given."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(data)}"]
    shown = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return "\r\n".join([*lines, *(f"{k}: {v}" for k, v in shown.items()), "", ""]).encode() + data


def ranking(order: Sequence[int], **changes: object) -> bytes:
    """A reply with this order."""
    results = [{"index": index, "relevance_score": 1 - rank / 1000} for rank, index in enumerate(order)]
    details = {
        "strategy": "single",
        "windows": 2,
        "rounds": 1,
        "repairs": {"missing": 1},
        "queue_ms": 3.0,
        "engine_ms": 5.0,
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return reply(200, {"results": results, "usage": usage, "meta": {"dear": details}} | changes)


def refusal(status: int = 429, **headers: str) -> bytes:
    """A refusal as the server has it."""
    return reply(status, {"error": {"message": "too much work ahead", "code": "overloaded"}}, **headers)


def models(*names: str) -> bytes:
    """The list of models."""
    return reply(200, {"object": "list", "data": [{"id": name} for name in names]})


async def ranks(asked: Asked) -> bytes:
    """A server as it should be."""
    return ranking(range(asked.count)) if asked.is_ranking else models("dear-tiny", "legal", "medical")


def always(answer: bytes) -> Respond:
    """The same for every ranking; models are listed."""

    async def respond(asked: Asked) -> bytes:
        return answer if asked.is_ranking else await ranks(asked)

    return respond


@contextlib.contextmanager
def scripted(respond: Respond = ranks) -> Iterator[Served]:
    """A server that answers as a function says, in a thread of its own."""
    served = Served("")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _closing(writer):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                first, *lines = head.strip().split("\r\n")
                method, path, _ = first.split(" ")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(time.perf_counter(), method, path, headers, json.loads(body or "{}"))
                served.asked.append(asked)
                data = await respond(asked)
                writer.write(data)
                await writer.drain()
                if not data or b"content-length" not in data:
                    break

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**24)

    with _in_thread(start) as url:
        served.url = url
        yield served


@contextlib.contextmanager
def trivial(behaviour: Behaviour | None = None) -> Iterator[str]:
    """The URL of the trivial server, in a thread of its own."""
    behaviour = behaviour or Behaviour()

    async def start() -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(behaviour), "127.0.0.1", 0)

    with _in_thread(start) as url:
        yield url


@contextlib.contextmanager
def raw(connected: Connected) -> Iterator[str]:
    """The URL of a server that does what a function does with a connection."""

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0)

    with _in_thread(start) as url:
        yield url


def says(data: bytes) -> Connected:
    """Answers whatever comes with these bytes, and closes the connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(
                (line[15:] for line in head.split("\r\n") if line.startswith("content-length:")), "0"
            )
            await reader.readexactly(int(length))
            writer.write(data)
            await writer.drain()

    return connected


@contextlib.contextmanager
def _closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection at the end, which may be that of the server or of whoever called."""
    try:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            yield
    finally:
        writer.close()


@contextlib.contextmanager
def _in_thread(start: Callable[[], Awaitable[asyncio.Server]]) -> Iterator[str]:
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["server"] = server = await start()
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        found["url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await found["stop"].wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were closed just now

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield found["url"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(10)
        assert not thread.is_alive()
