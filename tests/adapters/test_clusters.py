"""Two deployments on one registry: blue and green have adapters of their own, and tenants together."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from dear_serving.adapters.revisions import Adapters, Content, State
from dear_serving.errors import CapacityReached, UnknownSubject
from dear_serving.registry.database import Database, _create_engine, migrate_database, open_database
from dear_serving.registry.schema import upgrade
from dear_serving.tenancy.tenants import Limits, Tenants

OLD, NEW = Content("a" * 64, 1, 10), Content("b" * 64, 1, 10)


@pytest.fixture
def blue(registry: Database) -> Adapters:
    return Adapters(registry, 2)


@pytest.fixture
def green(registry: Database) -> Adapters:
    return Adapters(registry, 2, cluster="green")


def active(adapters: Adapters) -> dict[str, str]:
    return {name: revision.digest[0] for name, revision in adapters.pointers().active.items()}


def test_a_start_of_green_retires_and_swaps_nothing_of_blue(blue: Adapters, green: Adapters) -> None:
    blue.register_configured({"legal": (OLD, "plain", True), "medical": (OLD, "plain", True)})
    green.register_configured({"legal": (NEW, "chat", False)})
    assert (active(blue), active(green)) == ({"legal": "a", "medical": "a"}, {"legal": "b"})
    assert blue.pointers().shared == {"legal", "medical"}
    assert green.pointers().shared == frozenset()
    assert {one.state for one in blue.wanted_on_engines()[1]} == {State.ACTIVE}


def test_changes_of_one_leave_the_other_as_it_is(blue: Adapters, green: Adapters) -> None:
    for adapters in (blue, green):
        adapters.register_configured({"legal": (OLD, "plain", True)})
    registered = green.register("legal", NEW, template="plain", activate=True, actor="test")
    green.staged(registered)
    assert (active(blue), active(green)) == ({"legal": "a"}, {"legal": "b"})
    assert green.rollback("legal", actor="test").digest == OLD.digest
    green.retire("legal", actor="test")
    assert (active(blue), active(green)) == ({"legal": "a"}, {})
    assert [one.digest for one in blue.get("legal").revisions] == [OLD.digest]
    with pytest.raises(UnknownSubject):
        blue.activate("legal", NEW.digest, actor="test")


def test_each_has_its_own_capacity_and_list(blue: Adapters, green: Adapters) -> None:
    for name in ("legal", "medical"):
        blue.register(name, OLD, template="plain", actor="test")
    assert green.list() == []
    green.register("legal", OLD, template="plain", actor="test")
    with pytest.raises(CapacityReached):
        blue.register("third", OLD, template="plain", actor="test")
    assert [one.name for one in blue.list()] == ["legal", "medical"]
    assert [one.name for one in green.list()] == ["legal"]


def test_tenants_and_grants_are_there_for_both(registry: Database, green: Adapters) -> None:
    tenants = Tenants(registry)
    tenants.create("acme", weight=1.0, limits=Limits(), actor="test")
    green.register("legal", OLD, template="plain", tenants=["acme"], actor="test")
    assert tenants.get("acme").granted == {"legal"}
    assert tenants.changes(limit=1)[0].detail["cluster"] == "green"


def test_adapters_of_a_release_without_clusters_are_the_default_cluster_s(registry_url: str) -> None:
    engine = _create_engine(registry_url)
    with engine.begin() as connection:
        upgrade(connection, "0004")
        connection.execute(
            text(
                "INSERT INTO adapters (name, shared, seeded, active, previous, created_s)"
                " VALUES ('legal', true, :digest, :digest, NULL, 1.0)"
            ),
            {"digest": OLD.digest},
        )
        connection.execute(
            text(
                "INSERT INTO revisions (name, digest, state, reason, template, rank, size_bytes, activate,"
                " version, created_s, changed_s)"
                " VALUES ('legal', :digest, 'active', NULL, 'plain', 1, 10, false, 1, 1.0, 1.0)"
            ),
            {"digest": OLD.digest},
        )
    engine.dispose()
    migrate_database(registry_url)
    database = open_database(registry_url)
    assert active(Adapters(database, 2)) == {"legal": "a"}
    assert active(Adapters(database, 2, cluster="green")) == {}
    with database.writing() as session:  # as the release before does, which does not know the column
        session.execute(
            text("INSERT INTO replicas (id, adopted, seen_s) VALUES ('old', 1, 1.0)"),
        )
        session.execute(text("UPDATE adapters SET active = NULL WHERE name = 'legal'"))
    assert active(Adapters(database, 2)) == {}
    with database.writing() as session:
        session.execute(text("DELETE FROM adapters"))
        assert session.scalar(text("SELECT count(*) FROM revisions")) == 0  # still with its name
    database.close()
