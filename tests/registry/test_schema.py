"""Upgrades: who migrates, and which release works with which tables."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from dear_serving.cli.main import app
from dear_serving.errors import SettingsError
from dear_serving.registry.database import Database, _create_engine, migrate_database, open_database
from dear_serving.registry.schema import Migrate, kinds, known_revisions, upgrade
from dear_serving.tenancy.tenants import Limits, Tenants
from tests.conftest import CPU_CONFIG
from tests.support.postgres import new_postgres_database

pytestmark = pytest.mark.integration

HEAD = known_revisions()[-1]


def change(url: str, *statements: str) -> None:
    engine = _create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def later_release(url: str, oldest: str | None) -> None:
    """What a migration 9999 leaves behind, which needs a release that knows ``oldest``."""
    open_database(url).close()
    change(
        url,
        "UPDATE alembic_version SET version_num = '9999'",
        "ALTER TABLE tenants ADD COLUMN invented INTEGER",
        f"UPDATE compatibility SET oldest = '{oldest}'" if oldest else "DROP TABLE compatibility",
    )


def of_release(url: str, revision: str) -> None:
    """The tables of an earlier release."""
    engine = _create_engine(url)
    with engine.begin() as connection:
        upgrade(connection, revision)
    engine.dispose()


def works(database: Database) -> bool:
    tenants = Tenants(database)
    tenants.create("acme", weight=1.0, limits=Limits(), actor="test")
    found = [tenant.id for tenant in tenants.list()]
    database.close()
    return found == ["acme"]


def test_every_migration_says_of_which_kind_it_is() -> None:
    assert set(kinds().values()) <= {"expand", "contract"}
    assert kinds()["0003"] == "contract"


def test_a_release_works_on_with_tables_that_a_later_one_expanded(
    registry_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    later_release(registry_url, HEAD)
    with caplog.at_level(logging.INFO, "dear_serving"):
        assert works(open_database(registry_url))
    assert [record.message for record in caplog.records] == [
        "the registry's tables (9999) are a later release's, which this one works with"
    ]
    before, now = migrate_database(registry_url)
    assert before == now
    assert now.revision == "9999"


@pytest.mark.parametrize("oldest", ["9998", None])
@pytest.mark.parametrize("migrate", ["auto", "always", "never"])
def test_a_release_refuses_tables_that_a_later_one_contracted(
    oldest: str | None, migrate: Migrate, registry_url: str
) -> None:
    later_release(registry_url, oldest)
    for action in (
        lambda: open_database(registry_url, migrate=migrate),
        lambda: migrate_database(registry_url),
    ):
        with pytest.raises(SettingsError, match=r"\(9999\) are a later release's, which this one cannot use"):
            action()


def test_the_database_says_which_releases_can_use_it(registry_url: str) -> None:
    _, now = migrate_database(registry_url)
    contractions = [revision for revision, kind in kinds().items() if kind == "contract"]
    assert (now.revision, now.oldest) == (HEAD, contractions[-1])


@pytest.mark.parametrize(
    ("kind", "migrate", "has", "opens"),
    [
        ("sqlite", "auto", None, True),
        ("sqlite", "auto", "0003", True),
        ("sqlite", "always", "0003", True),
        ("sqlite", "never", "0003", False),
        ("sqlite", "never", None, False),
        ("postgresql", "auto", None, True),
        ("postgresql", "auto", "0003", False),
        ("postgresql", "always", "0003", True),
        ("postgresql", "never", "0003", False),
        ("postgresql", "never", None, False),
    ],
)
def test_who_migrates(
    kind: str, migrate: Migrate, has: str | None, opens: bool, new_url: Callable[[str], str]
) -> None:
    url = new_url(kind)
    if has is not None:
        of_release(url, has)
    if opens:
        assert works(open_database(url, migrate=migrate))
        return
    with pytest.raises(SettingsError, match=r"run dear migrate, or see registry\.migrate") as refused:
        open_database(url, migrate=migrate)
    assert ("earlier release's (0003)" in refused.value.message) == (has is not None)
    migrate_database(url)
    assert works(open_database(url, migrate=migrate))


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """The URL of a database that nobody has used, of the kind that is asked for."""

    def new_url(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / 'registry.db'}"
        return new_postgres_database(request.getfixturevalue("postgres_folder"))

    return new_url


def test_dear_migrate_says_what_it_did(registry_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_release(registry_url, "0003")
    monkeypatch.setenv("DEAR_REGISTRY_URL", registry_url)
    said = [CliRunner().invoke(app, ["migrate", "--config", str(CPU_CONFIG)]).output for _ in range(2)]
    assert said == [
        f"registry: tables are at {HEAD}, migrated from 0003\n",
        f"registry: tables are at {HEAD}, nothing to do\n",
    ]


def test_a_migration_that_fails_changes_nothing(registry_url: str) -> None:
    of_release(registry_url, "0003")
    change(registry_url, "CREATE TABLE compatibility (id INTEGER, oldest VARCHAR(32))")
    with pytest.raises(SettingsError, match=r"cannot be migrated: .*compatibility.* already exists"):
        migrate_database(registry_url)
    change(registry_url, "DROP TABLE compatibility")
    assert migrate_database(registry_url)[0].revision == "0003"
