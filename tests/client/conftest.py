"""Fixtures of the client's tests."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.client.raw_server import RawServer, Script
from tests.client.shells import KINDS, Shell, environment
from tests.http.conftest import adapter_sync as adapter_sync
from tests.http.conftest import replica as replica
from tests.http.conftest import served as served
from tests.http.conftest import with_adapters as with_adapters

Connect = Callable[..., Shell]


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with environment(monkeypatch):
        yield


@pytest.fixture(params=KINDS)
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes clients of either kind, and closes them."""
    made: list[Shell] = []

    def make(*args: Any, **kwargs: Any) -> Shell:
        made.append(Shell(request.param, *args, **kwargs))
        return made[-1]

    yield make
    for shell in made:
        await shell.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Script], RawServer]]:
    """Starts raw servers, and stops them."""
    running: list[RawServer] = []

    def start(script: Script) -> RawServer:
        running.append(RawServer(script).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """Nobody leaves threads of ours behind."""
    yield
    until_s = time.monotonic() + 5
    while left := [one.name for one in threading.enumerate() if one.name.startswith("dear-client")]:
        assert time.monotonic() < until_s, left
        time.sleep(0.01)
