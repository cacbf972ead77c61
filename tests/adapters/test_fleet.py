"""Who lives, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from dear_serving.adapters.fleet import Fleet, GatewayLife, Living, ReplicaLife
from dear_serving.registry.database import Database
from dear_serving.registry.tables import GatewayRow, HoldingRow, ReplicaRow
from tests.adapters.conftest import Clock


@pytest.fixture
def fleet(registry: Database, clock: Clock) -> Fleet:
    return Fleet(registry, clock)


def gateways(fleet: Fleet) -> list[str]:
    return sorted(gateway.id for gateway in fleet.living().gateways)


def replicas(fleet: Fleet) -> dict[str, dict[str, str | None]]:
    return {replica.id: dict(replica.holds) for replica in fleet.living().replicas}


def rows(registry: Database) -> tuple[int, ...]:
    with registry.reading() as session:
        return tuple(
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (GatewayRow, ReplicaRow, HoldingRow)
        )


def test_nobody_lives_at_first(fleet: Fleet) -> None:
    assert fleet.living() == Living([], [])


def test_who_says_so_lives_for_six_seconds(fleet: Fleet, clock: Clock) -> None:
    gateway, replica = GatewayLife("g", 7, 5), ReplicaLife("r", 1, {"legal@a": None, "legal@b": "too large"})
    fleet.gateway_lives(gateway)
    fleet.replica_lives(replica)
    clock.now_s += 5.9
    assert fleet.living() == Living([gateway], [replica])
    clock.now_s += 0.2
    assert fleet.living() == Living([], [])


def test_who_says_so_again_lives_on(fleet: Fleet, clock: Clock) -> None:
    for adopted in range(5):
        fleet.gateway_lives(GatewayLife("g", adopted, adopted))
        fleet.replica_lives(ReplicaLife("r", 1, {}))
        clock.now_s += 5
    assert fleet.living() == Living([GatewayLife("g", 4, 4)], [ReplicaLife("r", 1, {})])


def test_who_was_thought_dead_may_come_back(fleet: Fleet, clock: Clock) -> None:
    fleet.replica_lives(ReplicaLife("r", 1, {"legal@a": None}))
    clock.now_s += 100
    fleet.replica_lives(ReplicaLife("r", 1, {"legal@b": None}))
    assert replicas(fleet) == {"r": {"legal@b": None}}


def test_one_that_dies_leaves_the_others(fleet: Fleet, clock: Clock) -> None:
    fleet.gateway_lives(GatewayLife("a", 1, 1))
    fleet.replica_lives(ReplicaLife("c", 1, {"x": None}))
    clock.now_s += 4
    fleet.gateway_lives(GatewayLife("b", 1, 1))
    fleet.replica_lives(ReplicaLife("d", 1, {"x": None}))
    clock.now_s += 4
    assert (gateways(fleet), replicas(fleet)) == (["b"], {"d": {"x": None}})


def test_what_a_replica_holds_is_replaced_whole(fleet: Fleet) -> None:
    fleet.replica_lives(ReplicaLife("r", 1, {"a": None, "b": None, "c": "no"}))
    fleet.replica_lives(ReplicaLife("s", 1, {"a": None}))
    fleet.replica_lives(ReplicaLife("r", 1, {"b": "lost", "c": None, "d": None}))
    assert replicas(fleet) == {"r": {"b": "lost", "c": None, "d": None}, "s": {"a": None}}
    fleet.replica_lives(ReplicaLife("r", 1, {}))
    assert replicas(fleet) == {"r": {}, "s": {"a": None}}


def test_replicas_come_by_id(fleet: Fleet) -> None:
    for name in ("c", "a", "b"):
        fleet.replica_lives(ReplicaLife(name, 1, {}))
    assert list(replicas(fleet)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "kept"), [("x" * 501, "x" * 500), ("é" * 10_000, "é" * 500), ("x" * 500, "x" * 500), ("", "")]
)
def test_a_long_reason_is_cut(given: str, kept: str, fleet: Fleet) -> None:
    fleet.replica_lives(ReplicaLife("r", 1, {"a": given}))
    assert replicas(fleet) == {"r": {"a": kept}}


def test_who_ends_is_gone_at_once(fleet: Fleet, registry: Database) -> None:
    for name in ("a", "b"):
        fleet.gateway_lives(GatewayLife(name, 1, 1))
    for name in ("c", "d"):
        fleet.replica_lives(ReplicaLife(name, 1, {"x": None}))
    fleet.forget("a")
    fleet.forget("c")
    fleet.forget("nobody")
    assert (gateways(fleet), replicas(fleet)) == (["b"], {"d": {"x": None}})
    assert rows(registry) == (1, 1, 1)


def test_rows_of_those_who_ended_without_a_word_are_dropped_in_the_end(
    fleet: Fleet, clock: Clock, registry: Database
) -> None:
    fleet.gateway_lives(GatewayLife("a", 1, 1))
    fleet.replica_lives(ReplicaLife("b", 1, {"x": None, "y": "no"}))
    clock.now_s += 30
    fleet.gateway_lives(GatewayLife("c", 1, 1))
    fleet.replica_lives(ReplicaLife("d", 1, {"x": None}))
    fleet.forget_the_dead()
    assert rows(registry) == (2, 2, 3)
    clock.now_s += 31
    fleet.forget_the_dead()
    assert rows(registry) == (1, 1, 1)


def test_a_version_is_adopted_and_an_older_one_left_once_all_gateways_did() -> None:
    def living(*lives: tuple[int, int]) -> Living:
        return Living([GatewayLife(str(at), *life) for at, life in enumerate(lives)], [])

    assert living((5, 3), (4, 4)).adopted(4)
    assert not living((5, 3), (4, 4)).adopted(5)
    assert living((5, 3), (4, 4)).left(3)
    assert not living((5, 3), (4, 4)).left(4)
    assert living().adopted(9)
    assert living().left(9)
