"""What a cluster at rest asks of its registry, and how long a swap takes.

Run it with: python -m benchmarks.registry_traffic

The real loops of gateways and engines in a few processes, with engines that only remember, on a PostgreSQL
server that this starts (``--url`` names another, with an empty database). Prints transactions and rows a
second from pg_stat_database and pg_stat_user_tables, connections, and the seconds from a registration until
the name points at the revision, and until the revision before is let go.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.revisions import Adapters, Content, Revision, State
from dear_serving.gateway.catalog import Catalog, ServedModel
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.registry.database import open_database
from dear_serving.replica.adapter_sync import AdapterSync

PROCESSES = 4
CAPACITY = 64
ADAPTERS = 32


class Remembering:
    """An engine, a store and an observer without work."""

    async def load(self, revision: str, folder: Path) -> None:
        """Nothing to do."""

    async def unload(self, revision: str) -> bool:
        """Always at once."""
        return True

    def fetch(self, digest: str, cache: Path) -> Path:
        """A folder that nobody reads."""
        return cache

    def swapped(self, model: str) -> None:
        """Nobody to tell."""

    def drop_all_but(self, models: Collection[str], revisions: Collection[str]) -> None:
        """Nothing to drop."""


async def work(url: str, gateways: int, engines: int) -> None:
    """The loops of that many gateways and engines, each with a pool of its own."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(gateways + engines + 4))
    nothing: Any = Remembering()
    loops = []
    for _ in range(engines):
        database = open_database(url)
        adapters, heartbeats = Adapters(database, CAPACITY), Heartbeats(database)
        sync = AdapterSync(uuid.uuid4().hex, adapters, heartbeats, nothing, Path("/nowhere"), nothing)
        await sync.start()
        loops.append(sync.run())
    for _ in range(gateways):
        database = open_database(url)
        adapters, heartbeats = Adapters(database, CAPACITY), Heartbeats(database)
        catalog = Catalog(uuid.uuid4().hex, ServedModel("base", None, "plain"), adapters, heartbeats)
        lifecycle = Lifecycle(adapters, heartbeats, catalog, nothing, _rank, nothing)
        await catalog.refresh()
        loops.append(lifecycle.run())
    await asyncio.gather(*loops)


async def _rank(revision: Revision) -> None:
    """The canary: every revision ranks."""


def measure(url: str, gateways: int, engines: int, seconds: float) -> dict[str, float]:
    """The figures, while the workers run."""
    database = open_database(url)
    adapters, heartbeats = Adapters(database, CAPACITY), Heartbeats(database)
    names = [f"adapter-{number:02d}" for number in range(ADAPTERS)]
    adapters.register_configured({name: (content(name, 1), "plain", True) for name in names})
    share = (str(gateways // PROCESSES), str(engines // PROCESSES))
    command = [sys.executable, "-m", "benchmarks.registry_traffic", "--url", url, "--worker", *share]
    with ExitStack() as ending:
        for _ in range(PROCESSES):
            worker = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
            ending.callback(worker.wait)
            ending.callback(worker.kill)
        settle(adapters, heartbeats, gateways, engines)
        outside = create_engine(url, isolation_level="AUTOCOMMIT")
        before, started_s = counters(outside), time.monotonic()
        time.sleep(seconds)
        after, took_s = counters(outside), time.monotonic() - started_s
        figures = {name: (after[name] - before[name]) / took_s for name in ("transactions", "rows written")}
        figures["connections"] = after["connections"]
        points, drained = zip(*[swap(adapters, value) for value in (2, 3, 4)], strict=True)
        outside.dispose()
    database.close()
    return figures | {"swap, s": sorted(points)[1], "and the old one let go, s": sorted(drained)[1]}


def register(adapters: Adapters, name: str, value: int) -> Revision:
    """A revision that the name points at once it is staged."""
    return adapters.register(name, content(name, value), template="plain", activate=True, actor="benchmark")


def content(name: str, value: int) -> Content:
    """What no files belong to."""
    return Content(f"{value:02x}{name.encode().hex()}".ljust(64, "0")[:64], rank=1, size_bytes=1)


def settle(adapters: Adapters, heartbeats: Heartbeats, gateways: int, engines: int) -> None:
    """Wait until all live, and every revision is active."""
    while True:
        alive, (_, wanted) = heartbeats.alive(), adapters.wanted_on_engines()
        here = (len(alive.gateways), len(alive.replicas)) == (gateways, engines)
        if here and all(revision.state is State.ACTIVE for revision in wanted):
            time.sleep(5)
            return
        time.sleep(0.5)


def swap(adapters: Adapters, value: int) -> tuple[float, float]:
    """Seconds from a registration until its name points at it, and until the one before is let go."""
    started_s = time.monotonic()
    revision = register(adapters, "adapter-00", value)
    while adapters.get(revision.name).active != revision.id:
        time.sleep(0.02)
    pointed_s = time.monotonic() - started_s
    while any(one.state is State.DRAINING for one in adapters.get(revision.name).revisions):
        time.sleep(0.02)
    return pointed_s, time.monotonic() - started_s


def counters(outside: Any) -> dict[str, float]:
    """PostgreSQL's counters of this database; backends write theirs within a second."""
    with outside.connect() as connection:
        row = connection.execute(
            text(
                "SELECT d.xact_commit + d.xact_rollback, "
                "(SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables), "
                "(SELECT count(*) FROM pg_stat_activity WHERE datname = d.datname) "
                "FROM pg_stat_database d WHERE d.datname = current_database()"
            )
        ).one()
    return dict(zip(("transactions", "rows written", "connections"), map(float, row), strict=True))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="an empty database; default: a server of its own")
    parser.add_argument("--gateways", type=int, default=8)
    parser.add_argument("--engines", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        asyncio.run(work(given.url, *given.worker))
        return
    with ExitStack() as ending:
        url = given.url
        if url is None:
            from tests.support.postgres import new_postgres_database, postgres_server

            os.chdir(ending.enter_context(tempfile.TemporaryDirectory()))
            server = ending.enter_context(postgres_server("-c max_connections=600"))
            url = f"{new_postgres_database(server.folder)}&connect_timeout=60"  # all come at once
        for name, figure in measure(url, given.gateways, given.engines, given.seconds).items():
            sys.stdout.write(f"{name:28} {figure:8.1f}\n")


if __name__ == "__main__":
    main()
