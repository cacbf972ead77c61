"""A server killed in the middle of registering, swapping or retiring: what comes after it is whole."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import update

from dear_serving.adapters.configured import register_configured
from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.revisions import Adapters, State
from dear_serving.adapters.store import Store
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.registry.database import open_database
from dear_serving.registry.tables import GatewayRow, ReplicaRow
from dear_serving.replica.adapter_sync import AdapterSync
from dear_serving.settings import load_settings
from tests.conftest import CPU_CONFIG, LEGAL, ROOT, client_of, settings_in
from tests.support.adapters import Engine
from tests.support.fake_engine import FakeEngine

POINTS: dict[str, tuple[type, str, str, int]] = {
    # What is cut off: a call of a method, before or after its work, the how-manieth.
    "checked, not kept": (Store, "put", "before", 1),
    "weights kept, settings not": (LocalFileSystem, "put_file", "after", 1),
    "kept, not registered": (Store, "put", "after", 1),
    "registering, not committed": (Adapters, "_put", "after", 1),
    "registered, not copied": (Adapters, "register", "after", 1),
    "copied, not loaded": (Store, "fetch", "after", 1),
    "loaded, not said": (Engine, "load", "after", 1),
    "held, not tried": (Lifecycle, "_run_canary", "before", 1),
    "tried, not staged": (Adapters, "staged", "before", 1),
    "swapping, not committed": (Adapters, "_point", "after", 1),
    "swapped, not drained": (Adapters, "drained", "before", 1),
    "drained, not let go": (Engine, "unload", "before", 1),
    "let go, not said": (Engine, "unload", "after", 1),
    "going back": (Adapters, "rollback", "after", 1),
    "retiring, not committed": (Adapters, "_retire", "after", 1),
    "retired, not drained": (Adapters, "retire", "after", 1),
}


class Server:
    """A gateway and an engine replica in this process, over the folder's registry and store."""

    def __init__(self, folder: Path) -> None:
        settings = settings_in(folder, load_settings(CPU_CONFIG))
        served = settings.adapters.model_copy(update={"serve": settings.adapters.serve[:1]})
        settings = settings.model_copy(update={"adapters": served})
        register_configured(settings)
        assert settings.model.source is not None
        fake = FakeEngine(lambda request: "")
        self.gateway: GatewayState = build_gateway(
            settings, fake, load_tokenizer(settings.model.source), settings.model.source
        )
        self.engine = Engine()
        self.database = open_database(settings.registry.url)
        self.adapters = Adapters(self.database, settings.adapters.capacity)
        self.holdings = AdapterSync(
            os.urandom(8).hex(),
            self.adapters,
            Heartbeats(self.database),
            Store(settings.adapters.store),
            settings.adapters.cache,
            self.engine,
        )

    async def __aenter__(self) -> Server:
        await self.holdings.start()
        await self.gateway.catalog.refresh()
        loops = (self.holdings.run(), self.gateway.lifecycle.run())
        self._loops = [asyncio.create_task(loop) for loop in loops]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.wait(self._loops)
        self.database.close()
        self.gateway.database.close()

    async def swap_to_medical(self) -> None:
        lifecycle = self.gateway.lifecycle
        revision = await lifecycle.register(
            "legal", "medical", template="plain", shared=None, tenants=(), activate=True, actor="test"
        )
        assert (await lifecycle.wait_until_settled(revision, 15)).state is State.ACTIVE

    async def at_rest(self) -> None:
        """Return when nothing is on its way, and the engine has what it is to have."""
        async with asyncio.timeout(20):
            while True:
                _, revisions = await asyncio.to_thread(self.adapters.wanted_on_engines)
                moving = [one for one in revisions if one.state in (State.REGISTERED, State.DRAINING)]
                if not moving and set(self.engine.loaded) == {one.id for one in revisions}:
                    return
                await asyncio.sleep(0.02)


async def work(folder: Path, point: str) -> None:
    """What the killed process does: a swap, the way back, and the name's retirement."""
    async with Server(folder) as server:
        say("ready")
        cut(point)
        await server.swap_to_medical()
        await server.at_rest()
        revision = await asyncio.to_thread(lambda: server.adapters.rollback("legal", actor="test"))
        await server.gateway.lifecycle.wait_until_settled(revision, 15)
        await server.at_rest()
        await asyncio.to_thread(lambda: server.adapters.retire("legal", actor="test"))
        await server.at_rest()
    say("never killed")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def cut(point: str) -> None:
    """Have this process killed at a point."""
    owner, name, moment, left = POINTS[point]
    inner: Callable[..., Any] = getattr(owner, name)

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(*arguments: Any, **named: Any) -> Any:
        if moment == "before":
            count()
        result = inner(*arguments, **named)
        if moment == "after":
            count()
        return result

    async def call_later(*arguments: Any, **named: Any) -> Any:
        if moment == "before":
            count()
        result = await inner(*arguments, **named)
        if moment == "after":
            count()
        return result

    setattr(owner, name, call_later if asyncio.iscoroutinefunction(inner) else call)


def kill_at_every_point(folder: Path) -> None:
    """Make a server for each point, in a process of its own, and say how it ended.

    The processes are forks, since what takes seconds is to import all that a server needs; the tokenizer
    imports its library when it is loaded.
    """
    settings = load_settings(CPU_CONFIG)
    assert settings.model.source is not None
    load_tokenizer(settings.model.source)
    for number, point in enumerate(POINTS):
        process = os.fork()
        if process == 0:
            asyncio.run(work(folder / str(number), point))
            os._exit(0)
        say(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each point the folder of a server that was killed there."""
    folder = tmp_path_factory.mktemp("killed")
    code = "import sys, pathlib; from tests.gateway.test_kill import kill_at_every_point; "
    code += "kill_at_every_point(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.stdout.split() == ["ready", str(-signal.SIGKILL)] * len(POINTS), ended.stderr
    return {point: folder / str(number) for number, point in enumerate(POINTS)}


def last_heard(folder: Path, ago_s: float) -> None:
    """Make all heartbeats of a registry that old."""
    database = open_database(f"sqlite:///{folder / 'registry.db'}")
    with database.writing() as session:
        for row in (GatewayRow, ReplicaRow):
            session.execute(update(row).values(seen_s=time.time() - ago_s))
    database.close()


@pytest.mark.integration
@pytest.mark.parametrize("point", POINTS)
async def test_after_a_kill_the_registry_is_whole_and_the_service_answers(
    point: str, killed: dict[str, Path]
) -> None:
    # The killed server counts as alive for another second, and what it may use is kept for it.
    last_heard(killed[point], ago_s=5.0)
    async with Server(killed[point]) as server:
        await server.at_rest()
        adapter = server.adapters.get("legal")
        active = [one.id for one in adapter.revisions if one.state is State.ACTIVE]
        assert active == ([adapter.active] if adapter.active else [])
        assert (adapter.active is None) == (point == "retired, not drained")
        async with client_of(server.gateway) as http:
            reply = await http.post(
                "/v2/rerank", json={"model": "legal", "query": "q", "documents": ["a", "b"]}
            )
            if adapter.active is None:
                assert reply.status_code == 404
            else:
                assert reply.status_code == 200, reply.text
                assert reply.json()["meta"]["dear"]["revision"] == adapter.active
        # And nothing stands in the way of what was cut off.
        await server.swap_to_medical()
        await server.at_rest()
        assert server.adapters.get("legal").active != LEGAL
        assert len(server.engine.loaded) == 1
