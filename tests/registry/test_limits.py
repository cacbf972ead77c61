"""What a database refuses or is too slow for: a 503 in words, and nothing half written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import create_engine, select, text

from dear_serving.errors import DearError, RegistryUnavailable, SettingsError
from dear_serving.registry import postgres
from dear_serving.registry.database import Database, open_database
from dear_serving.registry.tables import AuditRow, GrantRow
from dear_serving.tenancy.tenants import Limits, Tenants
from tests.support.postgres import new_postgres_database

pytestmark = pytest.mark.integration


@pytest.fixture
def url(postgres_folder: str) -> str:
    """A PostgreSQL database with the registry's tables."""
    url = new_postgres_database(postgres_folder)
    open_database(url).close()
    return url


@pytest.fixture
def run(url: str) -> Iterator[Callable[[str], None]]:
    """Sends the database a statement from outside."""
    outside = create_engine(url, isolation_level="AUTOCOMMIT")

    def run(statement: str) -> None:
        with outside.connect() as connection:
            connection.execute(text(statement))

    yield run
    outside.dispose()


def entries(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(AuditRow)).all())


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(RegistryUnavailable) as failure:
        action()
    assert (failure.value.status, failure.value.retry_after_s) == (503, 2.0)
    return failure.value.message


def create(database: Database, tenant: str = "acme") -> None:
    Tenants(database).create(tenant, weight=1.0, limits=Limits(), actor="test")


def test_who_finds_no_connection_in_time_is_told_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_POOL_WAIT_S", 0.1)
    database = open_database(url, pool_size=2)
    with database.reading() as first, database.reading() as second:
        first.connection(), second.connection()
        said = refusal(lambda: entries(database))
    assert said == "all connections to the registry are in use now"
    assert entries(database) == 0
    database.close()


def test_a_process_has_no_more_connections_than_its_pool(url: str) -> None:
    database = open_database(url, pool_size=3)
    together = threading.Barrier(3)

    def look() -> None:
        with database.reading() as session:
            session.execute(text("SELECT 1"))
            together.wait(30)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        assert session.scalar(count) == 3
    database.close()


def test_a_statement_that_waits_for_a_lock_ends_and_changes_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SESSION", "SET statement_timeout = 300")
    database = open_database(url)
    other = create_engine(url)
    with other.connect() as holder:
        holder.execute(text("LOCK TABLE audit"))
        assert refusal(lambda: create(database)) == "the registry does not answer now"
    assert Tenants(database).list() == []
    other.dispose()
    database.close()


def test_each_connection_has_its_limits(url: str) -> None:
    database = open_database(url)
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
    with database.reading() as session:
        found = [session.scalar(text(f"SHOW {name}")) for name in names]
    assert found == ["5s", "5s", "10s", "dear-serving"]
    database.close()


def test_a_read_only_database_is_read_and_refuses_changes(url: str, run: Callable[[str], None]) -> None:
    name = url.partition("@/")[2].partition("?")[0]
    run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    database = open_database(url)
    said = refusal(lambda: create(database))
    assert said == "the registry takes no changes now: it is read-only"
    assert entries(database) == 0
    run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
    database.close()  # a failover, too, comes with new connections
    create(database)
    assert entries(database) == 1
    database.close()


def test_a_full_disk_is_said_and_leaves_whole_transactions(tmp_path: object) -> None:
    database = open_database(f"sqlite:///{tmp_path}/registry.db")
    create(database)
    with database.writing() as session:
        session.execute(text("PRAGMA max_page_count = 1"))  # which becomes as many as there are

    def fill() -> None:
        with database.writing() as session:
            for number in range(5000):
                session.add(AuditRow(at_s=1.0, actor="t", action="a", subject=f"{number}", detail={}))

    assert refusal(fill) == "the registry takes no changes now: its disk is full"
    assert entries(database) == 1
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit DROP COLUMN actor",
        "DROP TABLE audit",
        "ALTER TABLE audit ALTER COLUMN actor TYPE integer USING 1",
        "ALTER TABLE audit ADD CONSTRAINT never CHECK (false)",
    ],
)
def test_tables_that_are_not_ours_are_no_fault_of_the_caller(
    statement: str, url: str, run: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    run(statement)
    database = open_database(url)
    with pytest.raises(DearError) as failure:
        create(database)
    assert getattr(failure.value, "status", 500) in (400, 503)
    assert "audit" not in failure.value.message
    assert Tenants(database).list() == []
    database.close()


def test_what_two_add_at_once_is_no_fault(registry: Database) -> None:
    create(registry)

    def add_twice() -> None:
        with registry.writing() as session:
            session.add_all([GrantRow(tenant_id="acme", adapter="legal") for _ in range(2)])

    assert refusal(add_twice) == "the registry was changed by another at the same moment"
    assert Tenants(registry).get("acme").granted == frozenset()


def test_without_the_right_to_connect_the_start_is_one_sentence(
    postgres_folder: str, run: Callable[[str], None]
) -> None:
    with pytest.raises(SettingsError, match=r"cannot be opened: .*role \"nobody-there\" does not exist"):
        open_database(f"postgresql+psycopg://nobody-there@/postgres?host={postgres_folder}")
