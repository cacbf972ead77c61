"""The registry's database: opened by many at once, whole after whatever happens, on both kinds."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from dear_serving.errors import RegistryUnavailable, SettingsError
from dear_serving.registry.database import Database, _create_engine, open_database
from dear_serving.registry.schema import upgrade
from dear_serving.registry.tables import AuditRow, Table
from dear_serving.tenancy.tenants import Tenants

pytestmark = pytest.mark.integration


def entries(database: Database) -> int:
    with database.reading() as session:
        return len(session.scalars(select(AuditRow)).all())


def add_entry(database: Database, subject: str = "x") -> None:
    with database.writing() as session:
        session.add(AuditRow(at_s=1.0, actor="test", action="add", subject=subject, detail={}))


def test_migrations_make_the_tables_that_the_code_declares(registry_url: str) -> None:
    database = open_database(registry_url)
    with database._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    database.close()


def test_a_registry_of_the_first_release_keeps_tenants_keys_and_grants_and_forgets_salts(
    registry_url: str,
) -> None:
    old = _create_engine(registry_url)
    with old.begin() as connection:
        upgrade(connection, "0002")
        for tenant in ("acme", "zeta"):
            for insert in (
                "tenants (id, weight, cache_salt, created_s) VALUES (:tenant, 2.0, 'in clear', 1.0)",
                "keys (id, tenant_id, label, salt, digest, created_s)"
                " VALUES ('of-' || :tenant, :tenant, '', :bytes, :bytes, 1.0)",
                "grants (tenant_id, adapter) VALUES (:tenant, 'legal')",
            ):
                values = {"tenant": tenant, "bytes": b"x"}
                connection.execute(text(f"INSERT INTO {insert}"), values)
    old.dispose()
    database = open_database(registry_url, migrate="always")
    tenants = Tenants(database)
    assert [(one.id, one.weight, one.granted) for one in tenants.list()] == [
        ("acme", 2.0, {"legal"}),
        ("zeta", 2.0, {"legal"}),
    ]
    assert [key.id for key in tenants.keys("acme")] == ["of-acme"]
    assert "cache_salt" not in {one["name"] for one in inspect(database._engine).get_columns("tenants")}
    database.close()


def test_opening_twice_keeps_what_is_there(registry_url: str) -> None:
    first = open_database(registry_url)
    add_entry(first)
    first.close()
    second = open_database(registry_url)
    assert entries(second) == 1
    second.close()


def test_many_open_a_new_registry_at_once(registry_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(open_database, [registry_url] * 8))
    for database in opened:
        add_entry(database)
    assert entries(opened[0]) == 8
    for database in opened:
        database.close()


def test_a_transaction_that_raises_changes_nothing(registry_url: str) -> None:
    database = open_database(registry_url)
    with pytest.raises(RuntimeError), database.writing() as session:
        session.add(AuditRow(at_s=1.0, actor="test", action="add", subject="x", detail={}))
        session.flush()
        raise RuntimeError
    assert entries(database) == 0
    database.close()


def test_transactions_are_timed_and_a_callers_own_error_is_none_of_the_registry(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'registry.db'}")
    told: list[tuple[float, bool]] = []
    database.observe = lambda seconds, is_ok: told.append((seconds, is_ok))
    add_entry(database)
    with pytest.raises(KeyError), database.reading():
        raise KeyError
    database.close()
    assert [is_ok for _, is_ok in told] == [True, True]
    assert all(seconds > 0 for seconds, _ in told)


def test_writers_wait_for_each_other(registry_url: str) -> None:
    database = open_database(registry_url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_entry(database, str(number)), range(64)))
    assert entries(database) == 64
    database.close()


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_the_file_is_its_owners_alone(there: bool, tmp_path: Path) -> None:
    file = tmp_path / "made" / "registry.db"
    if there:  # by a server that did not mind
        file.parent.mkdir()
        sqlite3.connect(file).close()
        file.touch(0o644)
        file.chmod(0o644)
    before = os.umask(0o022)
    try:
        database = open_database(f"sqlite:///{file}")
        add_entry(database)
    finally:
        os.umask(before)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()}
    assert modes == {"registry.db": 0o600, "registry.db-wal": 0o600, "registry.db-shm": 0o600}
    database.close()


def test_a_process_killed_while_it_writes_leaves_whole_transactions(tmp_path: Path) -> None:
    """Pairs of entries are written; after SIGKILL at any moment their number is even."""
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    open_database(url).close()
    code = f"""
from dear_serving.registry.database import open_database
from dear_serving.registry.schema import upgrade
from dear_serving.registry.tables import AuditRow
database = open_database({url!r})
print("writing", flush=True)
while True:
    with database.writing() as session:
        for subject in ("one", "other"):
            session.add(AuditRow(at_s=1.0, actor="test", action="add", subject=subject, detail={{}}))
            session.flush()
"""
    for delay_s in (0.0, 0.013, 0.031, 0.052, 0.084):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        database = open_database(url)
        assert entries(database) % 2 == 0
        add_entry(database, "one")
        add_entry(database, "other")
        database.close()
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_database_that_goes_away_is_unavailable_not_a_fault(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'registry.db'}")
    database.close()
    for file in tmp_path.iterdir():
        file.unlink()
    tmp_path.rmdir()
    told: list[bool] = []
    database.observe = lambda seconds, is_ok: told.append(is_ok)
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        add_entry(database)
    database.close()
    assert told == [False]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "registry.url is not a database URL"),
        ("nosuch://x/y", "registry.url: no driver for nosuch"),
        ("sqlite:////proc/nowhere/registry.db", "registry.url: /proc/nowhere/registry.db: "),
        (
            "postgresql+psycopg://me:secret@127.0.0.1:1/x?connect_timeout=2",
            "me:\\*\\*\\*@127.0.0.1:1/x.* cannot be opened: ",
        ),
    ],
)
def test_a_url_that_leads_nowhere_is_one_sentence(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        open_database(url)
    assert "secret" not in raised.value.message
    assert "\n" not in raised.value.message


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "registry.db"
    file.write_text("not a database, but somebody's notes" * 100)
    with pytest.raises(SettingsError, match="cannot be opened: file is not a database"):
        open_database(f"sqlite:///{file}")
    assert file.read_text().startswith("not a database")
