"""Two gateways and two engines that only pretend, in a process of their own: for the pages in a browser.

Registry, adapters' lifecycle, limits, admin routes and metrics are the real ones. Engines remember which
revisions they were given, and take some milliseconds for a window.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from dear_serving.errors import AdapterNotLoadable
from tests.support.adapters import Engine
from tests.support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from dear_serving.gateway.engine_replicas import Seen
    from dear_serving.gateway.fleet import GatewayReport
    from dear_serving.gateway.state import GatewayState
    from dear_serving.metrics import Page
    from dear_serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ADMIN = {"authorization": "Bearer root"}
ENGINES = ("e7k2m9qa", "e7p4x1wd")
GATEWAYS = ("g5a8c3vn", "g5t6z0rb")
BROKEN_ALPHA = 13
"""An adapter with this alpha is one that no engine loads."""
TENANTS: Mapping[str, Mapping[str, Any]] = {
    "acme": {"weight": 3.0, "requests_per_minute": 6000, "tokens_per_minute": 2_000_000},
    "globex": {"weight": 1.0},
    "initech": {"weight": 1.0, "requests_per_minute": 30},
    "umbrella-research": {"weight": 2.0, "requests_in_flight": 16},
    "wayne": {"weight": 1.0},
}


@dataclass(slots=True)
class FakeFleet:
    """A running fleet; ``folder`` has its registry, and what it is to pretend."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """The reply of an admin route."""
        reply = httpx.request(
            method, f"{self.url}/admin/v1{path}", json=body, headers=self.headers, timeout=60
        )
        reply.raise_for_status()
        return reply.json()

    @property
    def headers(self) -> dict[str, str]:
        """The admin key in use."""
        return {"authorization": f"Bearer {_told(self.folder).get('key', 'root')}"}

    def tell(self, **facts: Any) -> None:
        """What it is to pretend.

        ``engines``: by id what gateways see of it; ``load_s``: how long loading takes; ``silent``: whether
        the second gateway answers nothing; ``scorers``: ids of engines that run a first stage; ``key``: the
        admin key from its next start on.
        """
        (self.folder / "told.json").write_text(json.dumps(_told(self.folder) | facts))

    def stop(self) -> None:
        """End the process, as a machine that fails does."""
        self.process.kill()
        self.process.wait(10)

    def start(self) -> None:
        """Start it again, in the same place."""
        port = int(self.url.rpartition(":")[2])
        self.process = _start(self.folder, port, is_busy=False)[0]


@contextlib.contextmanager
def fake_fleet(folder: Path, *, is_busy: bool = False) -> Iterator[FakeFleet]:
    """Start it in ``folder``; where ``is_busy``, tenants send requests all the time."""
    process, url = _start(folder, 0, is_busy=is_busy)
    fleet = FakeFleet(process, url, folder)
    try:
        yield fleet
    finally:
        fleet.process.kill()
        fleet.process.wait(10)


def _start(folder: Path, port: int, *, is_busy: bool) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "tests.support.fake_fleet", str(folder), str(port), str(int(is_busy))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        line = said.readline()
    assert line, "the fleet did not start"
    return process, line.strip()


def _told(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder / "told.json").read_text())
        return found
    return {}


class _Loader(Engine):
    """Takes its time to load, and refuses what is broken."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    async def load(self, revision: str, folder: Path) -> None:
        await asyncio.sleep(_told(self._folder).get("load_s", 0.0))
        config = json.loads((folder / "adapter_config.json").read_text())
        if config["lora_alpha"] == BROKEN_ALPHA:
            raise AdapterNotLoadable("vLLM does not load it: <b>the rank of layer 3</b> is too high")
        await super().load(revision, folder)


@dataclass
class _Engines(FakeEngine):
    """Two engines that rank in some milliseconds, and count as real ones do."""

    folder: Path = field(default_factory=Path)
    open: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from prometheus_client import CollectorRegistry, Gauge

        from dear_serving.metrics import EngineMetrics

        self._metrics = {name: EngineMetrics(CollectorRegistry()) for name in ENGINES}
        self._gauges: dict[tuple[str, str], Any] = {}
        for name, one in self._metrics.items():
            self.open[name] = 0
            one.decoding.state("drafted")
            for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
                self._gauges[name, gauge] = Gauge(f"vllm:{gauge}", "As vLLM's.", registry=one.registry)

    async def _work(self) -> None:
        from dear_serving.metrics import Kind

        name = min(ENGINES, key=lambda one: (self.open[one], random.random()))
        queue_s, prefill_s, decode_s = (random.lognormvariate(0, 0.5) * s for s in (0.004, 0.03, 0.11))
        self.open[name] += 1
        try:
            await asyncio.sleep(queue_s + prefill_s + decode_s)
        finally:
            self.open[name] -= 1
        kind: Kind = "window"
        self._metrics[name].took(kind, queue_s, prefill_s, decode_s)

    async def metrics(self) -> str:
        """See the protocol."""
        from dear_serving.metrics import join, render

        for name in ENGINES:
            running = self.open[name]
            self._gauges[name, "num_requests_running"].set(running)
            self._gauges[name, "num_requests_waiting"].set(max(0, running - 8))
            self._gauges[name, "kv_cache_usage_perc"].set(min(0.97, running / 14))
        return join(render(one.registry, name) for name, one in self._metrics.items())

    def seen(self) -> dict[str, Seen]:
        """What a gateway sees of them."""
        from dear_serving.gateway.engine_replicas import Seen

        sights = _told(self.folder).get("engines", {})
        return {
            name: Seen(sights.get(name, "serving"), self.open[name])
            for name in ENGINES
            if sights.get(name) != "unknown"
        }


def _settings(folder: Path) -> Settings:
    from dear_serving.settings import load_settings
    from tests.conftest import CPU_CONFIG, settings_in

    sources = folder / "sources"
    if not sources.exists():
        for name, alphas in {"legal": (16, 8, 4), "medical": (16, 8)}.items():
            for number, alpha in enumerate((*alphas, BROKEN_ALPHA), start=1):
                copy = sources / f"{name}-{number}"
                shutil.copytree(ROOT / "configs" / "demo" / "adapters" / name, copy)
                config = json.loads((copy / "adapter_config.json").read_text())
                (copy / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
    loaded = load_settings(CPU_CONFIG)
    closed = loaded.tenancy.model_copy(update={"open": False, "open_metrics": False})
    own = settings_in(folder, loaded.model_copy(update={"tenancy": closed}))
    adapters = own.adapters.model_copy(update={"root": sources, "serve": ()})
    return own.model_copy(update={"adapters": adapters})


async def _serve(folder: Path, port: int, *, is_busy: bool) -> None:
    import uvicorn

    from dear_serving.adapters.heartbeats import Heartbeats
    from dear_serving.adapters.store import Store
    from dear_serving.gateway.authenticator import hash_keys
    from dear_serving.gateway.build import build_gateway
    from dear_serving.gateway.engine_replicas import Seen
    from dear_serving.gateway.tokenizer import load_tokenizer
    from dear_serving.http.app import create_app
    from dear_serving.replica.adapter_sync import AdapterSync
    from tests.conftest import reversing

    settings = _settings(folder)
    assert settings.model.source is not None
    tokenizer = load_tokenizer(settings.model.source)
    engines = _Engines(reversing(tokenizer), folder=folder)
    engines.requests = _Nothing()
    gateways: list[GatewayState] = []

    async def ask_gateways(tenant: str | None) -> tuple[list[Page], int]:
        answered = gateways[:1] if _told(folder).get("silent") else gateways
        return [one.metrics.page(tenant) for one in answered], len(gateways)

    async def ask_reports() -> tuple[list[GatewayReport], int]:
        answered = gateways[:1] if _told(folder).get("silent") else gateways
        scorers = {str(id): Seen("serving", 1) for id in _told(folder).get("scorers", ())}
        return [replace(one.report(), first_stage=scorers) for one in answered], len(gateways)

    key = _told(folder).get("key", "root")
    for name in GATEWAYS:
        gateway = build_gateway(
            settings,
            engines,
            tokenizer,
            settings.model.source,
            admin_digests=hash_keys([key]),
            count_engines=lambda: len(ENGINES),
            engines_seen=engines.seen,
            ask_gateways=ask_gateways,
            ask_reports=ask_reports,
            name=name,
        )
        gateways.append(gateway)
        await gateway.catalog.refresh()
    syncs = [
        AdapterSync(
            name,
            gateways[0].lifecycle.adapters,
            Heartbeats(gateways[0].database),
            Store(settings.adapters.store),
            settings.adapters.cache,
            _Loader(folder),
        )
        for name in ENGINES
    ]
    await asyncio.gather(*(sync.start() for sync in syncs))
    async with asyncio.TaskGroup() as tasks:
        for sync in syncs:
            tasks.create_task(sync.run())
        apps = [create_app(gateway) for gateway in gateways]
        tasks.create_task(gateways[1].lifecycle.run())
        clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") for app in apps
        ]
        listener = socket.create_server(("127.0.0.1", port), backlog=2048)
        server = uvicorn.Server(uvicorn.Config(apps[0], log_level="warning", access_log=False))
        tasks.create_task(server.serve([listener]))
        if not (folder / "furnished").exists():
            await _furnish(clients[0])
            (folder / "furnished").touch()
        if is_busy:
            await _be_busy(tasks, clients)
        sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()


async def _furnish(http: httpx.AsyncClient) -> None:
    """Tenants, and adapters with some revisions."""

    async def admin(method: str, path: str, body: Any) -> None:
        reply = await http.request(method, f"/admin/v1{path}", json=body, headers=ADMIN, timeout=60)
        assert reply.is_success or "adapter_failed" in reply.text, reply.text

    for tenant, limits in TENANTS.items():
        await admin("POST", "/tenants", {"id": tenant, **limits})
    for name, source, more in (
        ("contracts", "legal-1", {"activate": True}),
        ("contracts", "legal-2", {"activate": True}),
        ("contracts", "legal-3", {}),
        ("clinic/cardiology", "medical-1", {"activate": True, "tenants": ["acme", "wayne"]}),
        ("clinic/cardiology", "medical-2", {"activate": True}),
        ("patents", "legal-1", {"activate": True}),
        ("patents", "legal-4", {}),
    ):
        await admin("POST", "/adapters", {"name": name, "source": source, "wait_s": 30, **more})


async def _be_busy(tasks: asyncio.TaskGroup, clients: list[httpx.AsyncClient]) -> None:
    for tenant, callers, model in (
        ("acme", 6, "contracts"),
        ("globex", 3, "patents"),
        ("initech", 1, "contracts"),
        ("umbrella-research", 2, "dear-tiny"),
        ("wayne", 1, "clinic/cardiology"),
    ):
        made = await clients[0].post(f"/admin/v1/tenants/{tenant}/keys", json={}, headers=ADMIN)
        key = {"authorization": f"Bearer {made.json()['key']}"}
        for number in range(callers):
            tasks.create_task(_call(clients[number % 2], key, model))


async def _call(http: httpx.AsyncClient, key: dict[str, str], model: str) -> None:
    while True:
        documents = [f"passage {number} of many words" for number in range(random.randint(3, 40))]
        body = {"model": model, "query": "who invented the light bulb", "documents": documents}
        await http.post("/v2/rerank", json=body, headers=key)
        await asyncio.sleep(random.uniform(0.1, 0.8))


class _Nothing(list[Any]):
    """Requests that nobody asks for later."""

    def append(self, one: Any) -> None:
        """Forget it."""


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), is_busy=sys.argv[3] == "1"))
