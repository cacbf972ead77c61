"""The README's snippets run as they stand, one after the other; its tables say what there is."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn

import dear_client
from dear_client import Client, ClientError, RerankOptions, Retry, Timeout
from dear_client.administration import AdminCalls
from dear_client.many import AHEAD
from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import create_app
from tests.client.shells import environment
from tests.client.test_errors import below
from tests.conftest import ROOT

README = (ROOT / "client" / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class Server(uvicorn.Server):
    """Leaves signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def url(served: GatewayState) -> AsyncIterator[str]:
    """The app over a real socket."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(uvicorn.Config(create_app(served), lifespan="off", log_level="warning"))
        running = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


def run(url: str) -> dict[str, Any]:
    """Run every snippet in one namespace, and close the clients that they made."""
    names: dict[str, Any] = {}
    try:
        for number, snippet in enumerate(SNIPPETS):
            exec(compile(snippet.replace(ADDRESS, url), f"README.md[{number}]", "exec"), names)
    finally:
        for one in names.values():
            if isinstance(one, Client):
                one.close()
    return names


async def test_every_snippet_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def all_of_it() -> dict[str, Any]:
        with Client(url, admin_key="root") as client:
            client.admin.create_tenant("reader")
            key = client.admin.create_key("reader").key
        assert key is not None
        with environment(monkeypatch, DEAR_API_KEY=key):
            return run(url)

    names = await asyncio.to_thread(all_of_it)
    assert len(names["ranking"].results) == 2
    assert names["best"].document is names["hits"][names["best"].index]
    assert [len(one.order) for one in names["ranked"]] == [2, 2, 2]
    assert names["stream"].ranking.order
    assert names["key"].key.startswith("dear_")
    printed = capsys.readouterr().out
    assert "3 done, 0 failed" in printed
    assert "404 model_not_found model" in printed


def test_every_snippet_names_the_default_address_or_none() -> None:
    assert len(SNIPPETS) >= 9
    for snippet in SNIPPETS:
        assert set(re.findall(r"https?://[\w.:]+", snippet)) <= {ADDRESS, "https://example.org"}


def first_column(heading: str) -> list[str]:
    """The names in the first column of the first table under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]*)\|", section, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


def test_the_table_of_options_has_every_option() -> None:
    assert set(first_column("Options")) == set(RerankOptions.__annotations__)


def test_the_table_of_errors_has_every_error_once() -> None:
    assert sorted(first_column("Errors")) == sorted(kind.__name__ for kind in below(ClientError))
    for name in first_column("Errors"):
        assert hasattr(dear_client, name)


def test_the_table_of_admin_calls_has_every_call() -> None:
    section = README.partition("\n## Tenants, keys and adapters\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| \w+ \|(.*)\|$", section, re.MULTILINE)))
    calls = {name for name, _ in inspect.getmembers(AdminCalls, callable) if not name.startswith("_")}
    assert sorted(named) == sorted(calls)


def test_the_values_it_names_are_the_defaults() -> None:
    timeout, retry = Timeout(), Retry()
    assert f"connect_s={timeout.connect_s}, answer_s={timeout.answer_s}, total_s={timeout.total_s}" in README
    assert f"attempts={retry.attempts}, first_s={retry.first_s}, most_s={retry.most_s}" in README
    assert inspect.signature(Client.rerank_many).parameters["concurrency"].default == 8
    assert "`concurrency` (8) at a time" in README
    assert (AHEAD, "at most four\ntimes `concurrency` ahead" in README) == (4, True)


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README):
        assert (ROOT / "client" / link).exists(), link
