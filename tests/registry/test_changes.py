"""Who waits for a change is woken by it: told by PostgreSQL, by asking on SQLite."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from dear_serving.adapters.heartbeats import GatewayHeartbeat, Heartbeats
from dear_serving.adapters.revisions import Adapters, Content
from dear_serving.registry import changes as module
from dear_serving.registry.changes import Changes
from dear_serving.registry.database import Database, open_database
from tests.support.postgres import new_postgres_database

pytestmark = pytest.mark.integration

CONTENT = Content("a" * 64, 1, 10)
SLOW_S = 60.0


@pytest.fixture
def database(postgres_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A registry on PostgreSQL, which nobody asks while it tells."""
    monkeypatch.setattr(module, "_TOLD_S", SLOW_S)
    database = open_database(new_postgres_database(postgres_folder))
    yield database
    database.close()


@asynccontextmanager
async def listening(changes: Changes) -> AsyncIterator[None]:
    """While it listens, and was told so."""
    running = asyncio.create_task(changes.listen())
    async with asyncio.timeout(30):
        while not changes._listening:  # noqa: ASYNC110 - nothing says so
            await asyncio.sleep(0.01)
    await changes.wait()
    yield
    running.cancel()
    await asyncio.wait([running])


async def woken(changes: Changes, by: Callable[[], object] = lambda: None, within_s: float = 20.0) -> bool:
    """Whether a wait ends early once something is done."""
    started_s = time.monotonic()
    waiting = asyncio.create_task(changes.wait(within_s))
    await asyncio.to_thread(by)
    await waiting
    return time.monotonic() - started_s < within_s


def register(adapters: Adapters, name: str = "legal") -> None:
    adapters.register(name, CONTENT, template="plain", actor="test")


async def test_a_change_of_the_version_is_told(database: Database) -> None:
    adapters = Adapters(database, 8)
    changes = adapters.changes()
    async with listening(changes):
        assert await woken(changes, lambda: register(adapters))
        assert not await woken(changes, within_s=1.0)


async def test_reports_are_told_to_those_who_ask_for_them_and_renewals_to_nobody(database: Database) -> None:
    heartbeats, adapters = Heartbeats(database), Adapters(database, 8)
    gateway = GatewayHeartbeat("g", 1, 1)
    engines, gateways = adapters.changes(), adapters.changes(reports=True)
    async with listening(engines), listening(gateways):
        assert await woken(gateways, lambda: heartbeats.report_gateway(gateway))
        assert not await woken(engines, within_s=1.0)
        assert not await woken(gateways, lambda: heartbeats.renew(gateway), within_s=1.0)
        assert await woken(gateways, lambda: heartbeats.forget("g"))


async def test_another_cluster_is_not_woken(database: Database) -> None:
    blue, green = Adapters(database, 8), Adapters(database, 8, cluster="green")
    changes = blue.changes(reports=True)
    async with listening(changes):
        assert not await woken(changes, lambda: register(green), within_s=1.0)
        assert await woken(changes, lambda: register(blue))


async def test_a_change_that_is_rolled_back_is_not_told(database: Database) -> None:
    adapters = Adapters(database, 8)
    changes = adapters.changes()

    def fail() -> None:
        with pytest.raises(RuntimeError), database.writing() as session:
            database.tell(session, "default/version")
            raise RuntimeError

    async with listening(changes):
        assert not await woken(changes, fail, within_s=1.0)


async def test_a_connection_that_breaks_is_made_again_and_what_was_missed_is_looked_at(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOST_S", 0.2)
    adapters = Adapters(database, 8)
    changes = adapters.changes()

    def cut() -> None:
        with database.reading() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
            )

    async with listening(changes):
        with caplog.at_level(logging.WARNING, module.__name__):
            assert await woken(changes, cut)  # asks while nobody listens, or listens again
        assert "asking every second" in caplog.text
        async with asyncio.timeout(30):
            while not changes._listening:  # noqa: ASYNC110 - nothing says so
                await asyncio.sleep(0.01)
        await changes.wait(0.5)  # it may be told that it listens again
        assert await woken(changes, lambda: register(adapters))


async def test_sqlite_is_asked(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(f"sqlite:///{tmp_path}/registry.db")
    changes = Adapters(database, 8).changes()
    async with asyncio.timeout(30):
        await changes.listen()  # there is nothing to listen to
        await changes.wait()
    changes.wake()
    monkeypatch.setattr(module, "_POLL_S", SLOW_S)
    assert await woken(changes)
    database.close()
