"""A server of nothing but sockets and threads, that does to its callers whatever a test wants done."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came; ``number`` counts them from 0, ``connection`` the connections."""

    number: int
    connection: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


Script = Callable[[Asked, socket.socket], bool | None]
"""Answers a request on its connection; False closes that."""


class RawServer:
    """Serves while it is in a ``with``: ``script`` is called for each request, in a thread per connection."""

    def __init__(self, script: Script) -> None:
        self.asked: list[Asked] = []
        self._script = script
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="raw-server", daemon=True)]

    @property
    def connections(self) -> int:
        """How many were made."""
        return len(self._open)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number = len(self._open)
            self._open.append(connection)
            thread = threading.Thread(
                target=self._serve, args=(connection, number), name="raw-server", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        received = b""
        try:
            while True:
                while (end := received.find(b"\r\n\r\n")) < 0 or len(received) < _whole(received, end):
                    if not (part := connection.recv(65536)):
                        return
                    received += part
                whole = _whole(received, end)
                asked = self._note(received[:end], received[end + 4 : whole], number)
                received = received[whole:]
                if self._script(asked, connection) is False:
                    return
        except OSError:
            return
        finally:
            connection.close()

    def _note(self, head: bytes, body: bytes, connection: int) -> Asked:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        with self._lock:
            asked = Asked(len(self.asked), connection, method, path, headers, body)
            self.asked.append(asked)
        return asked


def _whole(received: bytes, end: int) -> int:
    length = _LENGTH.search(received[:end])
    return end + 4 + (int(length[1]) if length else 0)


def http(
    body: bytes | str | Mapping[str, Any],
    status: int = 200,
    kind: str = "application/json",
    **headers: str | None,
) -> bytes:
    """A reply as bytes. Header names have underscores for dashes; None takes one away."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    named: dict[str, str | None] = {"content_type": kind, "content_length": str(len(data)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} Whatever", *lines, "", ""]).encode() + data


def ranking(asked: Asked) -> dict[str, Any]:
    """What the real server could answer: the documents from last to first."""
    body = asked.json()
    count = len(body["documents"])
    shown = min(body.get("top_n") or count, count)
    return {
        "id": asked.headers.get("x-request-id"),
        "model": "base",
        "results": [
            {"index": count - 1 - rank, "relevance_score": 1 - rank / count} for rank in range(shown)
        ],
    }


def rank_all(asked: Asked, connection: socket.socket) -> bool | None:
    """A script: every request is answered at once."""
    connection.sendall(http(ranking(asked)))
    return None


def failure(code: str | None, message: str, kind: str = "server_error") -> dict[str, Any]:
    """The server's body of an error."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return {"error": error, "message": message, "detail": message}
