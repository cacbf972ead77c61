"""Tenants in the registry, on SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib

import pytest
from sqlalchemy import text

from dear_serving.errors import AlreadyThere, InvalidRequest, UnknownSubject
from dear_serving.registry.database import Database
from dear_serving.tenancy.keys import proves, split_key
from dear_serving.tenancy.tenants import Limits, Tenants


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tenants(registry: Database, clock: Clock) -> Tenants:
    return Tenants(registry, clock)


def make(tenants: Tenants, name: str = "acme") -> None:
    tenants.create(name, weight=1.0, limits=Limits(), actor="test")


def test_a_tenant_is_as_it_was_made_and_changed(tenants: Tenants) -> None:
    made = tenants.create("acme", weight=2.5, limits=Limits(3, 60, 10**12), actor="test")
    assert tenants.get("acme") == made
    assert made.cache_salt
    changed = tenants.change("acme", {"weight": 1.0, "requests_per_minute": None}, actor="test")
    assert changed.limits == Limits(3, None, 10**12)
    assert (changed.weight, changed.cache_salt) == (1.0, made.cache_salt)
    assert tenants.get("acme") == changed


def test_no_two_tenants_share_a_cache_and_each_keeps_its_own(tenants: Tenants, clock: Clock) -> None:
    for name in ("acme", "zeta"):
        make(tenants, name)
    salts = {name: tenants.get(name).cache_salt for name in ("acme", "zeta")}
    assert None not in salts.values()
    assert len(set(salts.values())) == 2
    assert {one.id: one.cache_salt for one in tenants.list()} == salts
    tenants.delete("acme", actor="test")
    clock.now_s += 0.5
    make(tenants, "acme")
    assert tenants.get("acme").cache_salt not in salts.values()


def test_the_registry_keeps_no_cache_salt(tenants: Tenants, registry: Database) -> None:
    made = tenants.create("acme", weight=1.0, limits=Limits(), actor="test")
    assert made.cache_salt is not None
    with registry.reading() as session:
        rows = session.execute(text("SELECT * FROM tenants")).all()
    assert made.cache_salt not in [value for row in rows for value in row]


def test_a_second_tenant_of_the_same_id_is_refused_and_noted_nowhere(tenants: Tenants) -> None:
    make(tenants)
    with pytest.raises(AlreadyThere, match='a tenant "acme" already'):
        make(tenants)
    assert len(tenants.changes()) == 1


def test_tenants_are_listed_in_pages(tenants: Tenants) -> None:
    for name in ("c", "a", "e", "b", "d"):
        make(tenants, name)
    tenants.grant("b", "medical", actor="test")
    first = tenants.list(limit=2)
    assert [tenant.id for tenant in first] == ["a", "b"]
    assert first[1].granted == {"medical"}
    assert [tenant.id for tenant in tenants.list(after="b", limit=10)] == ["c", "d", "e"]


def test_what_is_not_there_is_named(tenants: Tenants) -> None:
    for action in (
        lambda: tenants.get("nobody"),
        lambda: tenants.change("nobody", {"weight": 2.0}, actor="test"),
        lambda: tenants.create_key("nobody", actor="test"),
        lambda: tenants.keys("nobody"),
        lambda: tenants.grant("nobody", "legal", actor="test"),
        lambda: tenants.delete("nobody", actor="test"),
    ):
        with pytest.raises(UnknownSubject, match='there is no tenant "nobody"'):
            action()
    with pytest.raises(UnknownSubject, match='there is no key "0123"'):
        tenants.revoke_key("0123", actor="test")
    assert tenants.changes() == []


def test_what_a_database_cannot_keep_is_the_callers_fault(tenants: Tenants) -> None:
    """SQLite keeps a NUL in a text, PostgreSQL does not; neither may become a fault of the server."""
    with pytest.raises((UnknownSubject, InvalidRequest)):
        tenants.get("acme\x00")
    make(tenants)
    with contextlib.suppress(InvalidRequest):
        tenants.create_key("acme", label="a\x00b", actor="test")
    assert len(tenants.keys("acme")) == len(tenants.changes()) - 1


def test_a_key_leads_to_its_tenant(tenants: Tenants) -> None:
    make(tenants)
    issued = tenants.create_key("acme", label="laptop", expires_s=2000.0, actor="test")
    known = tenants.find_key(issued.key.id)
    assert known is not None
    assert (known.tenant, known.key) == (tenants.get("acme"), issued.key)
    _, secret = split_key(issued.text) or ("", "")
    assert proves(secret, known.salt, known.digest)
    assert tenants.find_key("ffffffffffff") is None


def test_a_rotated_key_works_on_for_the_overlap_and_lasts_no_longer_than_before(
    tenants: Tenants, clock: Clock
) -> None:
    make(tenants)
    old = tenants.create_key("acme", label="ci", expires_s=1600.0, actor="test").key
    clock.now_s = 1100.0
    new = tenants.rotate_key(old.id, overlap_s=50.0, actor="test").key
    kept = tenants.keys("acme")
    assert [key.id for key in kept] == [old.id, new.id]
    assert kept[0].is_valid(1149.0)
    assert not kept[0].is_valid(1150.0)
    assert (new.label, new.expires_s) == ("ci", 1700.0)  # the same lifetime, from now on
    clock.now_s = 1200.0
    with pytest.raises(UnknownSubject, match="no valid key"):
        tenants.rotate_key(old.id, overlap_s=50.0, actor="test")


def test_a_revoked_key_stays_revoked(tenants: Tenants, clock: Clock) -> None:
    make(tenants)
    key = tenants.create_key("acme", actor="test").key
    revoked = tenants.revoke_key(key.id, actor="test")
    clock.now_s += 5
    assert tenants.revoke_key(key.id, actor="test") == revoked
    assert not revoked.is_valid(clock.now_s)
    with pytest.raises(UnknownSubject, match="no valid key"):
        tenants.rotate_key(key.id, overlap_s=50.0, actor="test")


def test_grants_come_and_go(tenants: Tenants) -> None:
    make(tenants)
    assert tenants.grant("acme", "legal", actor="test").granted == {"legal"}
    assert tenants.grant("acme", "legal", actor="test").granted == {"legal"}
    assert tenants.revoke_grant("acme", "legal", actor="test").granted == set()
    with pytest.raises(UnknownSubject, match='tenant "acme" has no grant of "legal"'):
        tenants.revoke_grant("acme", "legal", actor="test")


def test_a_deleted_tenant_takes_its_keys_along_and_leaves_its_trail(tenants: Tenants) -> None:
    make(tenants)
    key = tenants.create_key("acme", actor="test").key
    tenants.grant("acme", "legal", actor="test")
    tenants.delete("acme", actor="root")
    assert tenants.find_key(key.id) is None
    make(tenants)
    assert tenants.get("acme").granted == set()
    assert [change.action for change in tenants.changes()] == [
        "tenant.create",
        "tenant.delete",
        "grant.add",
        "key.create",
        "tenant.create",
    ]


def test_the_trail_says_who_and_what_and_no_secret(tenants: Tenants, clock: Clock) -> None:
    make(tenants)
    issued = tenants.create_key("acme", label="ci", actor="someone")
    entry = tenants.changes(limit=1)[0]
    assert (entry.at_s, entry.actor, entry.action, entry.subject) == (
        clock.now_s,
        "someone",
        "key.create",
        issued.key.id,
    )
    assert entry.detail == {"tenant": "acme", "label": "ci"}
