"""A server of a few lines that misbehaves on request, and the command as a user meets it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dear_tools.evaluation.command import evaluate
from dear_tools.exits import ToolError
from tests.conftest import ROOT

EXAMPLE = ROOT / "client" / "examples"
DATA = ROOT.parent / "shared" / "data"

Behaviour = Callable[["Talk"], None]


def shares_words(query: str, passage: str) -> int:
    """How many words of the query a passage has."""
    return len({*query.lower().split()} & {*passage.lower().split()})


class Talk(BaseHTTPRequestHandler):
    """One request: ranks by shared words, or does as the server is told."""

    protocol_version = "HTTP/1.1"
    body: dict[str, Any]
    server: Serving

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.asked.append(self.body)
        self.server.behaviour(self)

    def answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        error = {"message": message, "type": "error", "code": code, "param": param}
        self.answer(status, json.dumps({"error": error, "message": message}).encode())

    def rank(self, **details: Any) -> None:
        passages = self.body["documents"]
        count = min(self.body.get("top_n") or len(passages), len(passages))
        order = sorted(range(len(passages)), key=lambda i: -shares_words(self.body["query"], passages[i]))
        results = [
            {"index": index, "relevance_score": 1 - place / 100} for place, index in enumerate(order[:count])
        ]
        told = {"strategy": "single", "windows": 1, "rounds": 1, "revision": "words@1", **details}
        usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
        reply = {"model": "words", "results": results, "usage": usage, "meta": {"dear": told, "warnings": []}}
        self.answer(200, json.dumps(reply).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Serving(ThreadingHTTPServer):
    """The fake server; ``behaviour`` is what it does with a request, ``asked`` what it was asked."""

    daemon_threads = False
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Talk)
        self.lock = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.behaviour: Behaviour = Talk.rank
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def queries(self) -> list[str]:
        return [body["query"] for body in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up."""


@pytest.fixture
def server() -> Iterator[Serving]:
    """A fake server on a free port."""
    serving = Serving()
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield serving
    serving.over.set()
    serving.shutdown()
    serving.server_close()
    thread.join()


@dataclass
class Ended:
    """How the command ended."""

    code: int
    out: str
    said: list[str] = field(default_factory=list)


def dear_eval(*arguments: object) -> Ended:
    """Run ``dear eval``; a ToolError ends it as the ``dear`` script does."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command("eval")(evaluate)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    said = result.stderr.splitlines()
    if isinstance(result.exception, ToolError):
        return Ended(1, result.stdout, [*said, f"dear: {result.exception}"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, said)


@pytest.fixture
def example() -> list[object]:
    """The arguments that name the example's candidates and judgements."""
    return ["--candidates", EXAMPLE / "candidates.json", "--qrels", EXAMPLE / "qrels.txt"]


@pytest.fixture
def shared_data() -> Path:
    """The folder with real collections; without it the test is skipped."""
    if not (DATA / "dl19" / "qrels.txt").is_file():
        pytest.skip("no real collections beside the repository")
    return DATA
