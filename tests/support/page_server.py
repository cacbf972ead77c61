"""A gateway over a fake engine behind a socket, in a thread of the test: what the engine does can be told
while a browser looks."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

import uvicorn

from dear_serving.adapters.configured import register_configured
from dear_serving.errors import EngineUnavailable
from dear_serving.gateway.authenticator import Authenticator, hash_keys
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.http.app import create_app
from dear_serving.protocol import DecodedWindow, PermutationRequest
from dear_serving.settings import Settings, load_settings
from dear_serving.tenancy.tenants import Tenants
from tests.conftest import CPU_CONFIG, reversing, settings_in
from tests.support.fake_engine import FakeEngine

ADMIN_KEY = "the-administrators"


class TellingEngine(FakeEngine):
    """Ranks from the last passage to the first, an adapter the other way round. After ``holds_at`` ranks a
    window waits until that is None again, or fails where ``fails`` is set."""

    holds_at: int | None = None
    fails: str | None = None

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        async for window in super().permute_stream(request):
            while self.holds_at is not None and window.decided > self.holds_at:
                if self.fails is not None:
                    raise EngineUnavailable(self.fails)
                await asyncio.sleep(0.01)
            yield window


def _preferred(request: PermutationRequest) -> Sequence[int]:
    places = range(len(request.identifiers))
    return places if request.adapter else places[::-1]


class PageServer:
    """Runs between ``start`` and ``stop``, always on the same port; ``is_open``: without keys.

    Args:
        folder: of its registry and store.
        settings: to serve with; None: the CPU default's.
    """

    def __init__(self, folder: Path, settings: Settings | None = None, *, is_open: bool = True) -> None:
        self._is_open = is_open
        settings = settings_in(folder, settings or load_settings(CPU_CONFIG))
        tenancy = settings.tenancy.model_copy(update={"open": is_open, "open_metrics": is_open})
        self._settings = settings.model_copy(update={"tenancy": tenancy})
        register_configured(self._settings)
        assert settings.model.source is not None
        self._tokenizer = load_tokenizer(settings.model.source)
        self.engine = TellingEngine(reversing(self._tokenizer), _preferred)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.gateway: GatewayState | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def tenants(self) -> Tenants:
        """The running server's."""
        assert self.gateway is not None
        return self.gateway.tenants

    def start(self) -> None:
        """Return when it answers."""
        source = self._settings.model.source
        assert source is not None
        digests = hash_keys([ADMIN_KEY])
        gateway = build_gateway(self._settings, self.engine, self._tokenizer, source, admin_digests=digests)
        # A key that is revoked, or whose limits change, is known at once.
        authenticator = Authenticator(gateway.tenants, open_access=self._is_open, fresh_s=0.0)
        self.gateway = gateway = dataclasses.replace(gateway, authenticator=authenticator)
        listener = socket.create_server(("127.0.0.1", self._port))
        config = uvicorn.Config(create_app(self.gateway), log_level="critical", timeout_graceful_shutdown=1)
        self._server = server = uvicorn.Server(config)

        def run() -> None:  # a browser's driver has an event loop in the test's own thread
            asyncio.run(gateway.catalog.refresh())
            server.run([listener])

        self._thread = threading.Thread(target=run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        """Close the socket and every connection, as a server does that ends."""
        assert self._server is not None
        assert self._thread is not None
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.gateway is not None
        self.gateway.database.close()


@contextlib.contextmanager
def page_server(
    folder: Path, settings: Settings | None = None, *, is_open: bool = True
) -> Iterator[PageServer]:
    """A running server."""
    server = PageServer(folder, settings, is_open=is_open)
    server.start()
    try:
        yield server
    finally:
        server.stop()
