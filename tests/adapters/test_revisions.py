"""Revisions in the registry, on SQLite and PostgreSQL: their lives, and where names point."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dear_serving.adapters.revisions import ON_ENGINES, Adapter, Adapters, Content, Revision, State
from dear_serving.errors import AlreadyThere, CapacityReached, UnknownSubject
from dear_serving.registry.audit import changes
from dear_serving.registry.database import Database, open_database
from dear_serving.tenancy.tenants import Limits, Tenants
from tests.support.adapters import Clock, now

CAPACITY = 4


def content(digit: str) -> Content:
    return Content(digit * 64, rank=8, size_bytes=5_000_000_000)


A, B, C, D, E = (content(digit) for digit in "abcde")


@pytest.fixture
def adapters(registry: Database, clock: Clock) -> Adapters:
    return Adapters(registry, CAPACITY, clock)


def register(adapters: Adapters, content: Content = A, name: str = "legal", **more: Any) -> Revision:
    return adapters.register(name, content, **{"template": "plain", "actor": "test"} | more)


def bring(adapters: Adapters, content: Content, state: State, name: str = "legal") -> Revision:
    """A revision that went all the way to that state."""
    revision = register(adapters, content, name)
    if state is State.FAILED:
        adapters.failed(revision, "no")
    elif state is not State.REGISTERED:
        adapters.staged(revision)
    if state in (State.ACTIVE, State.DRAINING, State.RETIRED):
        adapters.activate(name, revision.digest, actor="test")
    if state in (State.DRAINING, State.RETIRED):
        adapters.retire(name, revision.digest, actor="test")
    if state is State.RETIRED:
        adapters.drained(now(adapters, revision))
    revision = now(adapters, revision)
    assert revision.state is state
    return revision


def state_of(adapters: Adapters, content: Content, name: str = "legal") -> State:
    return next(one.state for one in adapters.get(name).revisions if one.digest == content.digest)


def tenant(registry: Database, name: str = "acme") -> Tenants:
    tenants = Tenants(registry)
    tenants.create(name, weight=1.0, limits=Limits(), actor="test")
    return tenants


def actions(registry: Database) -> list[tuple[str, str, str]]:
    """Who did what to which, oldest first."""
    return [(one.actor, one.action, one.subject) for one in reversed(changes(registry))]


def check(adapters: Adapters) -> None:
    """What holds after every change."""
    version, wanted_on_engines = adapters.wanted_on_engines()
    assert version == adapters.version()
    assert len(wanted_on_engines) <= 2 * CAPACITY
    known = adapters.list()
    for adapter in known:
        check_adapter(adapter, version)
    pointers = adapters.pointers()
    assert pointers.version == version
    assert {name: revision.id for name, revision in pointers.active.items()} == {
        adapter.name: adapter.active for adapter in known if adapter.active is not None
    }
    assert {one.id for one in wanted_on_engines} == {
        one.id for adapter in known for one in adapter.revisions if one.state in ON_ENGINES
    }


def check_adapter(adapter: Adapter, version: int) -> None:
    ids = [one.id for one in adapter.revisions]
    assert [one.id for one in adapter.revisions if one.state is State.ACTIVE] == (
        [] if adapter.active is None else [adapter.active]
    )
    assert adapter.previous is None or adapter.previous in ids
    assert sum(one.activate for one in adapter.revisions) <= 1
    for one in adapter.revisions:
        assert 0 < one.version <= version
        assert (one.reason is not None) == (one.state is State.FAILED)
        assert not one.activate or one.state is State.REGISTERED


# Registering.


def test_a_new_name_is_registered_and_answers_to_nobody_yet(adapters: Adapters, clock: Clock) -> None:
    revision = register(adapters, A, template="chat")
    assert revision.id == "legal@aaaaaaaaaaaa"
    assert (revision.state, revision.template, revision.rank) == (State.REGISTERED, "chat", 8)
    assert (revision.size_bytes, revision.activate, revision.version) == (
        5_000_000_000,
        False,
        adapters.version(),
    )
    assert (revision.created_s, revision.changed_s) == (clock.now_s, clock.now_s)
    adapter = adapters.get("legal")
    assert (adapter.active, adapter.previous, adapter.shared) == (None, None, True)
    assert adapter.revisions == [revision]
    assert adapters.pointers().active == {}
    check(adapters)


def test_revisions_of_a_name_are_newest_first(adapters: Adapters, clock: Clock) -> None:
    for one in (B, A, C):
        register(adapters, one)
        clock.now_s += 1
    assert [one.digest for one in adapters.get("legal").revisions] == [C.digest, A.digest, B.digest]
    assert [one.digest for one in adapters.wanted_on_engines()[1]] == [B.digest, A.digest, C.digest]


@pytest.mark.parametrize("state", [State.REGISTERED, State.STAGED, State.ACTIVE])
def test_content_that_is_on_the_engines_stays_as_it_is(state: State, adapters: Adapters) -> None:
    before = bring(adapters, A, state)
    assert register(adapters, A) == before
    check(adapters)


@pytest.mark.parametrize("state", [State.RETIRED, State.FAILED])
def test_content_that_left_the_engines_is_registered_anew(
    state: State, adapters: Adapters, clock: Clock
) -> None:
    before = bring(adapters, A, state)
    clock.now_s += 5
    revision = register(adapters, A, template="chat")
    assert (revision.state, revision.reason, revision.template) == (State.REGISTERED, None, "chat")
    assert (revision.created_s, revision.changed_s) == (before.created_s, clock.now_s)
    check(adapters)


def test_content_that_drains_is_staged_still(adapters: Adapters) -> None:
    bring(adapters, A, State.DRAINING)
    revision = register(adapters, A)
    assert revision.state is State.STAGED
    check(adapters)


def test_content_that_drains_takes_its_name_back_at_once(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.ACTIVE)
    assert state_of(adapters, A) is State.DRAINING
    assert register(adapters, A, activate=True).state is State.ACTIVE
    assert state_of(adapters, B) is State.DRAINING
    check(adapters)


@pytest.mark.parametrize("state", ON_ENGINES)
def test_another_template_needs_a_retirement_first(state: State, adapters: Adapters) -> None:
    before = bring(adapters, A, state)
    version = adapters.version()
    with pytest.raises(AlreadyThere, match='"legal@aaaaaaaaaaaa" is in use with template "plain"') as failure:
        register(adapters, A, template="chat")
    assert failure.value.param == "template"
    assert (adapters.version(), now(adapters, before)) == (version, before)
    adapters.retire("legal", actor="test")
    adapters.drained(now(adapters, before))
    assert register(adapters, A, template="chat").template == "chat"


def test_two_names_may_have_the_same_content(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE, "legal")
    bring(adapters, A, State.FAILED, "medical")
    assert state_of(adapters, A, "legal") is State.ACTIVE
    assert [adapter.name for adapter in adapters.list()] == ["legal", "medical"]
    check(adapters)


def test_adapters_are_listed_in_pages(adapters: Adapters) -> None:
    for name in ("c", "a", "d", "b"):
        register(adapters, A, name)
    assert [adapter.name for adapter in adapters.list(limit=2)] == ["a", "b"]
    assert [adapter.name for adapter in adapters.list(after="b")] == ["c", "d"]


# Who may use a name.


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({}, True),
        ({"shared": False}, False),
        ({"tenants": ["acme"]}, False),
        ({"tenants": ["acme"], "shared": True}, True),
    ],
    ids=str,
)
def test_a_new_name_is_for_all_unless_it_is_for_some(
    given: dict[str, Any], shared: bool, adapters: Adapters, registry: Database
) -> None:
    tenants = tenant(registry)
    register(adapters, A, **given)
    assert adapters.get("legal").shared is shared
    assert tenants.get("acme").granted == ({"legal"} if "tenants" in given else set())
    bring(adapters, A, State.ACTIVE)
    assert adapters.pointers().shared == ({"legal"} if shared else set())


def test_a_known_name_stays_as_shared_as_it_was_unless_said(adapters: Adapters, registry: Database) -> None:
    tenant(registry)
    register(adapters, A, tenants=["acme"])
    register(adapters, B)
    assert not adapters.get("legal").shared
    register(adapters, C, shared=True)
    register(adapters, D, tenants=["acme"])
    assert adapters.get("legal").shared


def test_a_tenant_named_twice_is_granted_once(adapters: Adapters, registry: Database) -> None:
    tenants = tenant(registry)
    register(adapters, A, tenants=["acme", "acme"])
    register(adapters, B, tenants=iter(["acme"]))
    assert tenants.get("acme").granted == {"legal"}
    assert [action for _, action, _ in actions(registry)].count("grant.add") == 1


def test_an_unknown_tenant_leaves_everything_as_it_was(adapters: Adapters, registry: Database) -> None:
    tenants = tenant(registry)
    version, before = adapters.version(), actions(registry)
    with pytest.raises(UnknownSubject, match='there is no tenant "nobody"') as failure:
        register(adapters, A, tenants=["acme", "nobody"])
    assert failure.value.param == "tenants"
    assert (adapters.version(), actions(registry), adapters.list()) == (version, before, [])
    assert tenants.get("acme").granted == set()


def test_a_name_is_shared_and_closed(adapters: Adapters, registry: Database) -> None:
    bring(adapters, A, State.ACTIVE)
    assert not adapters.share("legal", False, actor="root").shared
    assert adapters.pointers().shared == set()
    assert adapters.share("legal", True, actor="root").shared
    assert adapters.pointers().shared == {"legal"}
    assert actions(registry)[-1] == ("root", "adapter.share", "legal")
    assert changes(registry)[0].detail == {"shared": True}


# Activating.


def test_a_registered_one_takes_the_name_over_once_it_is_staged(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    revision = register(adapters, B)
    assert adapters.activate("legal", B.digest, actor="test").activate
    assert state_of(adapters, A) is State.ACTIVE
    adapters.staged(revision)
    assert (state_of(adapters, A), state_of(adapters, B)) == (State.DRAINING, State.ACTIVE)
    assert adapters.get("legal").previous == "legal@aaaaaaaaaaaa"
    check(adapters)


def test_one_registered_to_activate_does(adapters: Adapters) -> None:
    revision = register(adapters, A, activate=True)
    assert (revision.state, revision.activate) == (State.REGISTERED, True)
    adapters.staged(revision)
    assert (now(adapters, revision).state, now(adapters, revision).activate) == (State.ACTIVE, False)


def test_a_staged_one_takes_the_name_over_at_once(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.STAGED)
    assert adapters.activate("legal", B.digest, actor="test").state is State.ACTIVE
    old = next(one for one in adapters.get("legal").revisions if one.digest == A.digest)
    assert (old.state, old.version) == (State.DRAINING, adapters.version())
    assert adapters.pointers().active["legal"].digest == B.digest
    check(adapters)


@pytest.mark.parametrize("state", [State.RETIRED, State.FAILED])
def test_one_that_left_the_engines_goes_on_them_first(state: State, adapters: Adapters) -> None:
    bring(adapters, A, state)
    revision = adapters.activate("legal", A.digest, actor="test")
    assert (revision.state, revision.activate, revision.reason) == (State.REGISTERED, True, None)
    adapters.staged(revision)
    assert state_of(adapters, A) is State.ACTIVE
    check(adapters)


def test_one_that_is_active_stays_so(adapters: Adapters) -> None:
    before = bring(adapters, A, State.ACTIVE)
    assert adapters.activate("legal", A.digest, actor="test") == before
    assert adapters.get("legal").previous is None


def test_the_last_word_counts(adapters: Adapters) -> None:
    first, second = register(adapters, A, activate=True), register(adapters, B)
    adapters.activate("legal", B.digest, actor="test")
    assert not now(adapters, first).activate
    adapters.staged(first)
    assert state_of(adapters, A) is State.STAGED
    assert adapters.pointers().active == {}
    adapters.staged(second)
    assert state_of(adapters, B) is State.ACTIVE


def test_a_word_for_the_active_one_calls_off_who_was_to_follow(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    follower = register(adapters, B, activate=True)
    adapters.activate("legal", A.digest, actor="test")
    adapters.staged(follower)
    assert (state_of(adapters, A), state_of(adapters, B)) == (State.ACTIVE, State.STAGED)


# Going back.


def test_a_rollback_goes_back_and_forth(adapters: Adapters, registry: Database) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.ACTIVE)
    assert adapters.rollback("legal", actor="root").digest == A.digest
    assert (adapters.get("legal").active, adapters.get("legal").previous) == (
        "legal@aaaaaaaaaaaa",
        "legal@bbbbbbbbbbbb",
    )
    check(adapters)
    assert adapters.rollback("legal", actor="root").digest == B.digest
    assert state_of(adapters, A) is State.DRAINING
    assert actions(registry)[-1] == ("root", "adapter.rollback", "legal@bbbbbbbbbbbb")
    check(adapters)


def test_a_rollback_to_an_expected_revision_goes_to_no_other(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.ACTIVE)
    bring(adapters, C, State.ACTIVE)
    with pytest.raises(
        UnknownSubject, match=f'would go back to "legal@{B.digest[:12]}", not to "{A.digest}"'
    ):
        adapters.rollback("legal", A.digest, actor="test")
    with pytest.raises(UnknownSubject, match='has no revision "ffffff"'):
        adapters.rollback("legal", "ffffff", actor="test")
    assert adapters.rollback("legal", B.digest[:8], actor="test").digest == B.digest


def test_a_rollback_to_one_that_is_retired_takes_its_time(adapters: Adapters) -> None:
    old = bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.ACTIVE)
    adapters.drained(now(adapters, old))
    revision = adapters.rollback("legal", actor="test")
    assert (revision.state, revision.activate) == (State.REGISTERED, True)
    assert adapters.pointers().active["legal"].digest == B.digest
    adapters.staged(revision)
    assert adapters.pointers().active["legal"].digest == A.digest


def test_a_rollback_puts_a_retired_name_back_in_service(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    adapters.retire("legal", actor="test")
    assert adapters.pointers().active == {}
    assert adapters.rollback("legal", actor="test").state is State.ACTIVE
    check(adapters)


def test_without_an_earlier_one_there_is_nothing_to_go_back_to(
    adapters: Adapters, registry: Database
) -> None:
    with pytest.raises(UnknownSubject, match='there is no adapter "legal"'):
        adapters.rollback("legal", actor="test")
    bring(adapters, A, State.ACTIVE)
    version, before = adapters.version(), actions(registry)
    with pytest.raises(UnknownSubject, match="no earlier revision"):
        adapters.rollback("legal", actor="test")
    assert (adapters.version(), actions(registry)) == (version, before)


def test_a_revision_is_never_the_one_before_itself(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    adapters.retire("legal", actor="test")
    adapters.activate("legal", A.digest, actor="test")
    assert adapters.get("legal").active == "legal@aaaaaaaaaaaa"
    with pytest.raises(UnknownSubject, match="no earlier revision"):
        adapters.rollback("legal", actor="test")


# Retiring.


@pytest.mark.parametrize("state", [State.REGISTERED, State.STAGED, State.ACTIVE])
def test_what_is_retired_drains_first(state: State, adapters: Adapters, registry: Database) -> None:
    revision = bring(adapters, A, state)
    adapter = adapters.retire("legal", "legal@aaaaaaaaaaaa", actor="root")
    assert adapter.active is None
    assert (adapter.revisions[0].state, adapter.revisions[0].version) == (State.DRAINING, adapters.version())
    assert actions(registry)[-1] == ("root", "adapter.retire", "legal@aaaaaaaaaaaa")
    adapters.drained(now(adapters, revision))
    assert now(adapters, revision).state is State.RETIRED
    check(adapters)


@pytest.mark.parametrize("state", [State.DRAINING, State.RETIRED, State.FAILED])
def test_what_left_already_is_not_retired_again(state: State, adapters: Adapters, registry: Database) -> None:
    before, noted = bring(adapters, A, state), len(actions(registry))
    adapters.retire("legal", A.digest, actor="test")
    assert now(adapters, before) == before
    assert len(actions(registry)) == noted


def test_a_name_is_retired_with_all_of_its_revisions(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.STAGED)
    register(adapters, C, activate=True)
    bring(adapters, D, State.ACTIVE, "medical")
    adapter = adapters.retire("legal", actor="test")
    assert {one.state for one in adapter.revisions} == {State.DRAINING}
    assert not any(one.activate for one in adapter.revisions)
    assert adapters.pointers().active.keys() == {"medical"}
    check(adapters)


def test_retiring_another_revision_leaves_the_active_one(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.STAGED)
    adapters.retire("legal", B.digest, actor="test")
    assert adapters.get("legal").active == "legal@aaaaaaaaaaaa"
    check(adapters)


def test_one_that_was_retired_as_it_came_is_not_staged(adapters: Adapters) -> None:
    revision = register(adapters, A, activate=True)
    adapters.retire("legal", actor="test")
    adapters.staged(revision)
    adapters.failed(revision, "too late")
    assert state_of(adapters, A) is State.DRAINING
    check(adapters)


# What the lifecycle says.


@pytest.mark.parametrize("state", State)
def test_only_a_registered_one_fails(state: State, adapters: Adapters, registry: Database) -> None:
    before = bring(adapters, A, state)
    adapters.failed(before, "the engine said no")
    if state is State.REGISTERED:
        after = now(adapters, before)
        assert (after.state, after.reason) == (State.FAILED, "the engine said no")
        assert actions(registry)[-1] == ("server", "adapter.fail", "legal@aaaaaaaaaaaa")
        assert changes(registry)[0].detail == {"reason": "the engine said no"}
    else:
        assert now(adapters, before) == before
    check(adapters)


@pytest.mark.parametrize("state", [state for state in State if state is not State.REGISTERED])
def test_only_a_registered_one_is_staged(state: State, adapters: Adapters) -> None:
    before = bring(adapters, A, state)
    adapters.staged(before)
    assert now(adapters, before) == before


def test_a_long_reason_is_cut(adapters: Adapters) -> None:
    revision = register(adapters)
    adapters.failed(revision, "é" * 501)
    assert now(adapters, revision).reason == "é" * 500


def test_one_that_fails_to_replace_leaves_the_active_one(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    follower = register(adapters, B, activate=True)
    adapters.failed(follower, "no")
    assert adapters.pointers().active["legal"].digest == A.digest
    assert not now(adapters, follower).activate
    check(adapters)


def test_who_drains_again_is_not_let_go_for_the_first_time(adapters: Adapters) -> None:
    first = bring(adapters, A, State.DRAINING)
    register(adapters, A)
    adapters.drained(first)
    assert state_of(adapters, A) is State.STAGED
    adapters.retire("legal", actor="test")
    adapters.drained(first)
    assert state_of(adapters, A) is State.DRAINING
    adapters.drained(now(adapters, first))
    assert state_of(adapters, A) is State.RETIRED


# Capacity.


@pytest.mark.parametrize("state", [State.REGISTERED, State.STAGED, State.ACTIVE])
def test_the_engines_hold_no_more_than_they_may(state: State, adapters: Adapters, registry: Database) -> None:
    for one in (A, B, C):
        register(adapters, one, "other")
    last = bring(adapters, D, state)
    noted, version = actions(registry), adapters.version()
    with pytest.raises(CapacityReached, match=r"the engines hold 4 revisions, adapters\.capacity"):
        register(adapters, E, "third")
    assert (actions(registry), adapters.version()) == (noted, version)
    assert [adapter.name for adapter in adapters.list()] == ["legal", "other"]
    adapters.retire("legal", actor="test")
    register(adapters, E)
    adapters.drained(now(adapters, last))
    backs: list[Callable[[], object]] = [
        lambda: adapters.activate("legal", D.digest, actor="test"),
        lambda: register(adapters, D),
    ]
    for back in backs:
        with pytest.raises(CapacityReached):
            back()
    check(adapters)


def test_those_that_drain_have_as_much_room_again_and_no_more(adapters: Adapters) -> None:
    for number in range(8):
        register(adapters, content(f"{number:x}"))
        adapters.retire("legal", actor="test")
    with pytest.raises(CapacityReached):
        register(adapters, content("e"))
    adapters.drained(adapters.get("legal").revisions[-1])
    register(adapters, content("e"))


def test_one_that_failed_takes_no_room(adapters: Adapters) -> None:
    for one in (A, B, C, D):
        bring(adapters, one, State.FAILED)
    register(adapters, E)


def test_who_is_refused_for_room_calls_nobody_off(adapters: Adapters) -> None:
    bring(adapters, A, State.RETIRED)
    follower = register(adapters, B, activate=True)
    for one in (C, D, E):
        register(adapters, one)
    with pytest.raises(CapacityReached):
        adapters.activate("legal", A.digest, actor="test")
    assert now(adapters, follower).activate


def test_many_who_register_at_once_never_pass_the_capacity(adapters: Adapters) -> None:
    def attempt(number: int) -> bool:
        try:
            register(adapters, content(f"{number:x}"), f"name-{number % 3}", activate=True)
        except CapacityReached:
            return False
        return True

    version = adapters.version()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(attempt, range(16)))
    assert sum(taken) == CAPACITY
    assert adapters.version() == version + CAPACITY
    check(adapters)


# Names of revisions.


@pytest.mark.parametrize("given", ["{id}", "{digest}", "abcdef1", "ABCDEF1", "legal@abcdef1"])
def test_a_revision_goes_by_its_id_or_the_beginning_of_its_digest(given: str, adapters: Adapters) -> None:
    revision = register(adapters, Content("abcdef" + "1" * 58, 8, 1))
    register(adapters, Content("abcdef" + "2" * 58, 8, 1))
    given = given.format(id=revision.id, digest=revision.digest)
    assert adapters.activate("legal", given, actor="test").digest == revision.digest


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("abcdef", "more than one"),
        ("legal@abcdef", "more than one"),
        ("abcde", "no"),
        ("ffffff", "no"),
        ("", "no"),
        ("legal@", "no"),
        ("latest", "no"),
        ("%%%%%%", "no"),
        ("abcdef1\n", "no"),
        ("medical@abcdef1", "no"),
        ("legal@legal@abcdef1", "no"),
        ("abcdef" + "1" * 59, "no"),
    ],
)
def test_what_names_no_single_revision_is_refused(given: str, count: str, adapters: Adapters) -> None:
    register(adapters, Content("abcdef" + "1" * 58, 8, 1))
    register(adapters, Content("abcdef" + "2" * 58, 8, 1))
    register(adapters, Content("abcdef" + "1" * 58, 8, 1), "medical")
    for action in (adapters.activate, adapters.retire):
        with pytest.raises(UnknownSubject, match=f'"legal" has {count} revision') as failure:
            action("legal", given, actor="test")
        assert failure.value.param == "revision"


def test_a_name_that_is_not_there_is_named(adapters: Adapters, registry: Database) -> None:
    for action in (
        lambda: adapters.get("nobody"),
        lambda: adapters.activate("nobody", A.digest, actor="test"),
        lambda: adapters.rollback("nobody", actor="test"),
        lambda: adapters.retire("nobody", actor="test"),
        lambda: adapters.share("nobody", True, actor="test"),
    ):
        with pytest.raises(UnknownSubject, match='there is no adapter "nobody"'):
            action()
    assert actions(registry) == []


# The version, and the trail.


def test_the_version_grows_with_every_change(adapters: Adapters) -> None:
    versions = [adapters.version()]
    revision = register(adapters, A)
    versions.append(adapters.version())
    steps: list[Callable[[], object]] = [
        lambda: adapters.staged(revision),
        lambda: adapters.activate("legal", A.digest, actor="test"),
        lambda: adapters.share("legal", False, actor="test"),
        lambda: adapters.retire("legal", actor="test"),
        lambda: adapters.drained(now(adapters, revision)),
        lambda: adapters.rollback("legal", actor="test"),
        lambda: adapters.failed(now(adapters, revision), "no"),
        lambda: adapters.register_configured({"medical": (B, "plain", True)}),
    ]
    for step in steps:
        step()
        versions.append(adapters.version())
    assert versions == list(range(versions[0], versions[0] + len(versions)))


def test_the_version_stands_still_where_nothing_changes(adapters: Adapters) -> None:
    register(adapters, A)
    version = adapters.version()
    adapters.get("legal")
    adapters.list()
    adapters.pointers()
    adapters.wanted_on_engines()
    with pytest.raises(AlreadyThere):
        register(adapters, A, template="chat")
    with pytest.raises(UnknownSubject):
        adapters.rollback("legal", actor="test")
    assert adapters.version() == version


def test_a_word_that_comes_too_late_leaves_the_version(adapters: Adapters) -> None:
    revision = bring(adapters, A, State.DRAINING)
    adapters.drained(revision)
    version = adapters.version()
    adapters.drained(revision)
    adapters.staged(revision)
    adapters.failed(revision, "no")
    assert adapters.version() == version


def test_what_is_pointed_at_and_what_is_on_engines_are_as_of_the_version(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    bring(adapters, B, State.ACTIVE)
    bring(adapters, C, State.FAILED)
    bring(adapters, D, State.STAGED, "medical")
    pointers = adapters.pointers()
    assert (pointers.version, set(pointers.active)) == (adapters.version(), {"legal"})
    assert pointers.active["legal"] == adapters.get("legal").revisions[1]
    version, wanted_on_engines = adapters.wanted_on_engines()
    assert version == adapters.version()
    assert {(one.id, one.state) for one in wanted_on_engines} == {
        ("legal@aaaaaaaaaaaa", State.DRAINING),
        ("legal@bbbbbbbbbbbb", State.ACTIVE),
        ("medical@dddddddddddd", State.STAGED),
    }


def test_the_trail_says_who_did_what(adapters: Adapters, registry: Database, clock: Clock) -> None:
    tenant(registry)
    noted = len(actions(registry))
    clock.now_s = 2000.0
    revision = register(adapters, A, tenants=["acme"], actor="ann")
    assert changes(registry)[0].at_s == 2000.0
    assert changes(registry)[0].detail == {
        "bytes": A.size_bytes,
        "rank": 8,
        "template": "plain",
        "activate": False,
    }
    adapters.staged(revision)
    adapters.activate("legal", A.digest, actor="bob")
    adapters.share("legal", True, actor="cid")
    adapters.retire("legal", actor="dan")
    adapters.rollback("legal", actor="eve")
    assert actions(registry)[noted:] == [
        ("ann", "grant.add", "acme"),
        ("ann", "adapter.register", "legal@aaaaaaaaaaaa"),
        ("bob", "adapter.activate", "legal@aaaaaaaaaaaa"),
        ("cid", "adapter.share", "legal"),
        ("dan", "adapter.retire", "legal@aaaaaaaaaaaa"),
        ("eve", "adapter.rollback", "legal@aaaaaaaaaaaa"),
    ]


# What the settings name.


def register_configured(
    adapters: Adapters, shared: bool = True, template: str = "plain", **names: Content
) -> None:
    adapters.register_configured({name: (content, template, shared) for name, content in names.items()})
    check(adapters)


def test_names_of_the_settings_are_active_at_once(adapters: Adapters, registry: Database) -> None:
    register_configured(adapters, legal=A, medical=B, shared=False, template="chat")
    pointers = adapters.pointers()
    assert {name: one.digest for name, one in pointers.active.items()} == {
        "legal": A.digest,
        "medical": B.digest,
    }
    assert pointers.shared == set()
    assert pointers.active["legal"].template == "chat"
    assert actions(registry) == [
        ("settings", "adapter.register", "legal@aaaaaaaaaaaa"),
        ("settings", "adapter.register", "medical@bbbbbbbbbbbb"),
    ]


def test_a_restart_changes_nothing(adapters: Adapters, registry: Database) -> None:
    register_configured(adapters, legal=A, medical=B)
    before, noted = adapters.list(), actions(registry)
    register_configured(adapters, legal=A, medical=B)
    assert (adapters.list(), actions(registry)) == (before, noted)


def test_a_swap_outlives_a_restart(adapters: Adapters) -> None:
    register_configured(adapters, legal=A)
    bring(adapters, B, State.ACTIVE)
    register_configured(adapters, legal=A)
    assert adapters.pointers().active["legal"].digest == B.digest
    assert state_of(adapters, A) is State.DRAINING


def test_a_restart_takes_over_what_the_settings_say_of_known_content(adapters: Adapters) -> None:
    register_configured(adapters, legal=A)
    register_configured(adapters, legal=A, shared=False, template="chat")
    pointers = adapters.pointers()
    assert (pointers.active["legal"].template, pointers.shared) == ("chat", frozenset())


def test_changed_content_takes_over_once_it_is_staged(adapters: Adapters) -> None:
    register_configured(adapters, legal=A)
    register_configured(adapters, legal=B)
    new = next(one for one in adapters.get("legal").revisions if one.digest == B.digest)
    assert (new.state, new.activate) == (State.REGISTERED, True)
    assert adapters.pointers().active["legal"].digest == A.digest
    adapters.staged(new)
    assert adapters.pointers().active["legal"].digest == B.digest


def test_names_that_are_dropped_go_out_of_service_and_come_back_when_named_again(
    adapters: Adapters, registry: Database
) -> None:
    register_configured(adapters, legal=A, medical=B)
    register_configured(adapters, medical=B)
    adapter = adapters.get("legal")
    assert adapter.active is None
    assert adapter.revisions[0].state is State.DRAINING
    assert actions(registry)[-1] == ("settings", "adapter.retire", "legal@aaaaaaaaaaaa")
    register_configured(adapters, legal=A, medical=B)
    assert adapters.pointers().active["legal"].digest == A.digest
    register_configured(adapters, medical=B)
    adapters.drained(adapters.get("legal").revisions[0])
    register_configured(adapters, legal=A, medical=B)
    assert adapters.pointers().active["legal"].digest == A.digest


def test_names_that_the_settings_never_had_stay(adapters: Adapters) -> None:
    bring(adapters, C, State.ACTIVE, "own")
    register_configured(adapters, legal=A)
    register_configured(adapters)
    assert adapters.pointers().active.keys() == {"own"}


def test_a_name_that_an_administrator_retired_stays_retired(adapters: Adapters) -> None:
    register_configured(adapters, legal=A)
    adapters.retire("legal", actor="root")
    register_configured(adapters, legal=A)
    assert adapters.pointers().active == {}
    adapters.drained(adapters.get("legal").revisions[0])
    register_configured(adapters, legal=A)
    assert state_of(adapters, A) is State.RETIRED


def test_a_name_that_an_administrator_made_is_taken_over(adapters: Adapters) -> None:
    bring(adapters, A, State.ACTIVE)
    register(adapters, B, "medical")
    register_configured(adapters, legal=C, medical=B)
    assert {name: one.digest for name, one in adapters.pointers().active.items()} == {
        "legal": A.digest,
        "medical": B.digest,
    }
    assert next(one for one in adapters.get("legal").revisions if one.digest == C.digest).activate


def test_more_names_than_the_engines_may_hold_change_nothing(adapters: Adapters) -> None:
    with pytest.raises(CapacityReached):
        register_configured(
            adapters, **{f"name-{number}": content(f"{number:x}") for number in range(2 * CAPACITY + 1)}
        )
    assert adapters.list() == []


def test_names_that_are_dropped_make_room_for_those_that_come(adapters: Adapters) -> None:
    register_configured(adapters, a=A, b=B, c=C, d=D)
    register_configured(adapters, a=A, b=B, c=C, e=E)
    assert adapters.pointers().active.keys() == {"a", "b", "c", "e"}


# Whatever is done.


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a registry that nobody has used."""
    file = tmp_path_factory.mktemp("empty") / "registry.db"
    open_database(f"sqlite:///{file}").close()
    return file


STEPS = ("register", "register and activate", "activate", "rollback", "retire", "retire name")
WORDS = ("staged", "staged", "staged", "failed", "drained", "drained")
Step = tuple[str, str, int, int]


def do(adapters: Adapters, step: Step, seen: list[Revision]) -> None:
    action, name, number, past = step
    one = (A, B, C, D, E)[number]
    said = seen[past % len(seen)] if seen else None
    if action.startswith("register"):
        seen.append(register(adapters, one, name, activate=action != "register"))
    elif action == "activate":
        seen.append(adapters.activate(name, one.digest, actor="test"))
    elif action == "rollback":
        seen.append(adapters.rollback(name, actor="test"))
    elif action == "retire":
        seen.extend(adapters.retire(name, one.digest, actor="test").revisions)
    elif action == "retire name":
        seen.extend(adapters.retire(name, actor="test").revisions)
    elif action == "seed":
        adapters.register_configured({name: (one, "plain", bool(past % 2))} if past % 3 else {})
    elif said is not None:
        words: dict[str, Callable[[Revision], None]] = {
            "staged": adapters.staged,
            "drained": adapters.drained,
            "failed": lambda revision: adapters.failed(revision, "no"),
        }
        words[action](said)


@settings(database=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from((*STEPS, *WORDS, "seed")),
            st.sampled_from(("legal", "medical")),
            st.integers(0, 4),
            st.integers(0, 30),
        ),
        max_size=30,
    )
)
def test_a_registry_holds_together_whatever_is_done(steps: list[Step], empty_registry: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(empty_registry, folder)
        database = open_database(f"sqlite:///{folder}/{empty_registry.name}")
        adapters, seen = Adapters(database, CAPACITY, Clock()), list[Revision]()
        try:
            for step in steps:
                before = adapters.version()
                try:
                    do(adapters, step, seen)
                except (CapacityReached, UnknownSubject):
                    assert adapters.version() == before
                check(adapters)
        finally:
            database.close()
