"""A gateway over the fake engine in its own process, behind a socket, so that its memory can be measured."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
TENANTS = ("acme", "globex")
SMALL_BUDGET = "small-budget"
"""A tenant with a thousand tokens a minute."""


@dataclass(frozen=True, slots=True)
class FakeServer:
    """A running server; ``keys`` by tenant."""

    process: subprocess.Popen[str]
    url: str
    keys: dict[str, str]

    def client(self, tenant: str = TENANTS[0]) -> httpx.Client:
        """A client with a tenant's key."""
        headers = {"authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)

    def peak_bytes(self) -> int:
        """Most memory that the server and its worker processes ever held, in bytes, since reset_peak."""
        return sum(_peak_bytes(pid) for pid in self._pids())

    def reset_peak(self) -> None:
        """Start to measure memory from here."""
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _pids(self) -> list[int]:
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *(int(child) for one in children for child in one.read_text().split())]


@contextlib.contextmanager
def fake_server(**limits: Any) -> Iterator[FakeServer]:
    """Start the server; ``limits`` override those of the settings."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.support.fake_server", folder, json.dumps(limits)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            url, keys = json.loads(process.stdout.readline())
            deadline_s = time.monotonic() + 30
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            yield FakeServer(process, url, keys)
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()


class LongestWait:
    """Asks a path over and over in a thread; ``s`` is the longest that an answer took, in seconds."""

    def __init__(self, server: FakeServer, path: str = "/health", body: Any = None, tenant: str = TENANTS[1]):
        self.s = 0.0
        self.statuses: set[int] = set()
        self._server, self._path, self._body, self._tenant = server, path, body, tenant
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> LongestWait:
        self._thread.start()
        time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.1)
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        method = "GET" if self._body is None else "POST"
        with self._server.client(self._tenant) as http:
            http.request(method, self._path, json=self._body)  # the connection is open then
            while not self._done.is_set():
                began_s = time.monotonic()
                self.statuses.add(http.request(method, self._path, json=self._body).status_code)
                self.s = max(self.s, time.monotonic() - began_s)
                time.sleep(0.005)


def _peak_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class _Nothing(list[Any]):
    """Requests that nobody asks for later."""

    def append(self, one: Any) -> None:
        """Forget it."""


def _serve(folder: Path, limits: dict[str, Any]) -> None:
    import asyncio

    import uvicorn

    from dear_serving.adapters.configured import register_configured
    from dear_serving.gateway.build import build_gateway
    from dear_serving.gateway.tokenizer import load_tokenizer
    from dear_serving.http.app import create_app
    from dear_serving.settings import LimitSettings, load_settings
    from dear_serving.tenancy.tenants import Limits
    from tests.conftest import CPU_CONFIG, reversing, settings_in
    from tests.support.fake_engine import FakeEngine

    loaded = load_settings(CPU_CONFIG)
    settings = settings_in(folder, loaded.model_copy(update={"limits": LimitSettings(**limits)}))
    register_configured(settings)
    assert settings.model.source is not None
    tokenizer = load_tokenizer(settings.model.source)
    engine = FakeEngine(reversing(tokenizer), lambda request: range(len(request.identifiers)))
    engine.requests = _Nothing()
    gateway = build_gateway(settings, engine, tokenizer, settings.model.source)
    keys = {}
    for tenant in (*TENANTS, SMALL_BUDGET):
        budget = 1000 if tenant == SMALL_BUDGET else None
        gateway.tenants.create(tenant, weight=1.0, limits=Limits(tokens_per_minute=budget), actor="test")
        keys[tenant] = gateway.tenants.create_key(tenant, actor="test").text
    asyncio.run(gateway.catalog.refresh())
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        sys.stdout.write(json.dumps([f"http://127.0.0.1:{listener.getsockname()[1]}", keys]) + "\n")
        sys.stdout.flush()
        config = uvicorn.Config(create_app(gateway), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
