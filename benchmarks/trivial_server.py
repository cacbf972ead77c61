"""A server that ranks without thinking, to measure clients by: python -m benchmarks.trivial_server

Answers POST /v2/rerank (and every other path that ends in /rerank) with the documents from last to first,
GET /v1/models, /health and /ready. It speaks just as much HTTP as that needs: one process, one thread, no
framework, so that what is measured is the client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

MODEL = "trivial"

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)
_REQUEST_ID = re.compile(rb"^x-request-id:[ \t]*([\w.:-]+)", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(rb"^connection:[ \t]*close", re.IGNORECASE | re.MULTILINE)


@dataclass(slots=True)
class Behaviour:
    """How the server answers rerankings.

    Args:
        delay_s: each answer is held back so long.
        overload_share: of all rerankings, the share refused with 429 and Retry-After: 1; spread evenly.
    """

    delay_s: float = 0.0
    overload_share: float = 0.0
    reranked: int = 0

    def refuses(self) -> bool:
        """Whether the next reranking is one of those refused."""
        self.reranked += 1
        due, before = (int(count * self.overload_share) for count in (self.reranked, self.reranked - 1))
        return due > before


class Connection(asyncio.Protocol):
    """One connection: requests in, replies out, in their order."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._received = b""
        self._later: Callable[..., Any] = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._received += data
        while (end := self._received.find(_HEAD_END)) >= 0:
            head = self._received[:end]
            length = _LENGTH.search(head)
            whole = end + len(_HEAD_END) + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            body, self._received = self._received[end + len(_HEAD_END) : whole], self._received[whole:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path, *_ = head.split(b" ", 2)
        closing = _CLOSE.search(head) is not None
        if method == b"POST" and path.endswith(b"/rerank"):
            request_id = _REQUEST_ID.search(head)
            reply = self._rerank(body, request_id[1] if request_id else b"trivial")
            if self._behaviour.delay_s:
                self._later(self._behaviour.delay_s, self._send, reply, closing)
                return
        else:
            reply = _FIXED.get((method, path), _NOT_FOUND)
        self._send(reply, closing)

    def _send(self, reply: bytes, closing: bool) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)
            if closing:
                self._transport.close()

    def _rerank(self, body: bytes, request_id: bytes) -> bytes:
        try:
            data = json.loads(body)
            count, top_n = len(data["documents"]), int(data.get("top_n") or 0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return _BAD_REQUEST
        if self._behaviour.refuses():
            return _OVERLOADED
        start, rest = ranking(count, min(top_n or count, count))
        return start + request_id + rest if len(request_id) == 32 else _of_other_length(request_id, rest)


@functools.cache
def ranking(count: int, shown: int) -> tuple[bytes, bytes]:
    """The reply for so many documents: what comes before its id (of 32 characters) and what comes after."""
    rest = json.dumps(
        {
            "model": MODEL,
            "object": "list",
            "results": [
                {"index": count - 1 - rank, "relevance_score": round(1 - rank / count, 6)}
                for rank in range(shown)
            ],
            "usage": {"prompt_tokens": 50 * count, "completion_tokens": count, "total_tokens": 51 * count},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": 50 * count, "output_tokens": count},
                "warnings": [],
                "dear": {
                    "strategy": "single",
                    "strategy_reason": "it is trivial",
                    "scoring": "permutation",
                    "windows": 1,
                    "rounds": 1,
                    "repairs": {"repeated": 0, "missing": 0, "out_of_range": 0, "unparseable": 0},
                    "score_type": "rank",
                    "revision": MODEL,
                    "queue_ms": 0.0,
                    "engine_ms": 0.0,
                },
            },
        },
        separators=(",", ":"),
    ).encode()
    rest = b'",' + rest.removeprefix(b"{")
    return _head(HTTPStatus.OK, len(b'{"id":"') + 32 + len(rest)) + b'{"id":"', rest


def _of_other_length(request_id: bytes, rest: bytes) -> bytes:
    return _whole(HTTPStatus.OK, b'{"id":"' + request_id + rest)


def _head(status: HTTPStatus, length: int, *headers: str) -> bytes:
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {length}",
        *headers,
    )
    return "\r\n".join([*lines, "", ""]).encode()


def _whole(status: HTTPStatus, body: bytes, *headers: str) -> bytes:
    return _head(status, len(body), *headers) + body


def _error(status: HTTPStatus, kind: str, code: str | None, message: str, *headers: str) -> bytes:
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = {"error": error, "message": message, "detail": message}
    return _whole(status, json.dumps(body).encode(), *headers)


_MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "root": MODEL, "parent": None}]}
_FIXED = {
    (b"GET", b"/v1/models"): _whole(HTTPStatus.OK, json.dumps(_MODELS).encode()),
    (b"GET", b"/health"): _whole(HTTPStatus.OK, b'{"status":"ok"}'),
    (b"GET", b"/ready"): _whole(HTTPStatus.OK, b'{"status":"ready"}'),
}
_NOT_FOUND = _error(HTTPStatus.NOT_FOUND, "not_found_error", "route_not_found", "there is no such path")
_BAD_REQUEST = _error(
    HTTPStatus.BAD_REQUEST, "invalid_request_error", None, "documents: a list of them is needed"
)
_OVERLOADED = _error(
    HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", "too much work ahead", "retry-after: 1"
)


async def serve(port: int, behaviour: Behaviour, host: str = "127.0.0.1") -> None:
    """Serve until SIGINT or SIGTERM. Port 0 takes a free one; the one taken is printed first."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: Connection(behaviour), host, port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - for whoever started it
    await stopped.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trivial_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one, and prints it")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="how long each ranking is held back")
    parser.add_argument("--overload-share", type=float, default=0.0, help="rankings refused with 429, 0 to 1")
    given = parser.parse_args()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(given.port, Behaviour(given.delay_ms / 1e3, given.overload_share)))


if __name__ == "__main__":
    main()
