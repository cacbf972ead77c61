"""Who lives, on SQLite and PostgreSQL."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import event, func, select

from dear_serving.adapters.heartbeats import Alive, GatewayHeartbeat, Heartbeats, ReplicaHeartbeat
from dear_serving.registry.database import Database, open_database
from dear_serving.registry.tables import GatewayRow, HoldingRow, ReplicaRow
from tests.support.adapters import Clock
from tests.support.postgres import new_postgres_database


@pytest.fixture
def heartbeats(registry: Database, clock: Clock) -> Heartbeats:
    return Heartbeats(registry, clock)


def gateways(heartbeats: Heartbeats) -> list[str]:
    return sorted(gateway.id for gateway in heartbeats.alive().gateways)


def replicas(heartbeats: Heartbeats) -> dict[str, dict[str, str | None]]:
    return {replica.id: dict(replica.holds) for replica in heartbeats.alive().replicas}


def rows(registry: Database) -> tuple[int, ...]:
    with registry.reading() as session:
        return tuple(
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (GatewayRow, ReplicaRow, HoldingRow)
        )


def test_nobody_lives_at_first(heartbeats: Heartbeats) -> None:
    assert heartbeats.alive() == Alive([], [])


def test_who_says_so_lives_for_six_seconds(heartbeats: Heartbeats, clock: Clock) -> None:
    gateway, replica = (
        GatewayHeartbeat("g", 7, 5),
        ReplicaHeartbeat("r", 1, {"legal@a": None, "legal@b": "too large"}),
    )
    heartbeats.report_gateway(gateway)
    heartbeats.report_replica(replica)
    clock.now_s += 5.9
    assert heartbeats.alive() == Alive([gateway], [replica])
    clock.now_s += 0.2
    assert heartbeats.alive() == Alive([], [])


def test_who_says_so_again_lives_on(heartbeats: Heartbeats, clock: Clock) -> None:
    for adopted in range(5):
        heartbeats.report_gateway(GatewayHeartbeat("g", adopted, adopted))
        heartbeats.report_replica(ReplicaHeartbeat("r", 1, {}))
        clock.now_s += 5
    assert heartbeats.alive() == Alive([GatewayHeartbeat("g", 4, 4)], [ReplicaHeartbeat("r", 1, {})])


def test_who_was_thought_dead_may_come_back(heartbeats: Heartbeats, clock: Clock) -> None:
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {"legal@a": None}))
    clock.now_s += 100
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {"legal@b": None}))
    assert replicas(heartbeats) == {"r": {"legal@b": None}}


def test_one_that_dies_leaves_the_others(heartbeats: Heartbeats, clock: Clock) -> None:
    heartbeats.report_gateway(GatewayHeartbeat("a", 1, 1))
    heartbeats.report_replica(ReplicaHeartbeat("c", 1, {"x": None}))
    clock.now_s += 4
    heartbeats.report_gateway(GatewayHeartbeat("b", 1, 1))
    heartbeats.report_replica(ReplicaHeartbeat("d", 1, {"x": None}))
    clock.now_s += 4
    assert (gateways(heartbeats), replicas(heartbeats)) == (["b"], {"d": {"x": None}})


def test_what_a_replica_holds_is_replaced_whole(heartbeats: Heartbeats) -> None:
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {"a": None, "b": None, "c": "no"}))
    heartbeats.report_replica(ReplicaHeartbeat("s", 1, {"a": None}))
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {"b": "lost", "c": None, "d": None}))
    assert replicas(heartbeats) == {"r": {"b": "lost", "c": None, "d": None}, "s": {"a": None}}
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {}))
    assert replicas(heartbeats) == {"r": {}, "s": {"a": None}}


def test_a_report_that_holds_still_writes_one_row(
    heartbeats: Heartbeats, clock: Clock, registry: Database
) -> None:
    last = ReplicaHeartbeat("r", 3, {f"a@{number}": None for number in range(20)})
    heartbeats.report_replica(last)
    clock.now_s += 5
    written: list[str] = []

    def watch(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            written.append(statement.split()[0])

    event.listen(registry._engine, "before_cursor_execute", watch)
    heartbeats.renew(last)
    assert written == ["UPDATE"]
    clock.now_s += 5
    assert heartbeats.alive() == Alive([], [last])
    written.clear()
    heartbeats.report_replica(ReplicaHeartbeat("r", 4, {**last.holds, "b": None}))
    assert written == ["UPDATE", "INSERT"]


def test_one_that_was_dropped_is_there_again_when_it_renews_its_report(
    heartbeats: Heartbeats, clock: Clock
) -> None:
    gateway, replica = GatewayHeartbeat("g", 7, 5), ReplicaHeartbeat("r", 1, {"legal@a": None})
    for _ in range(2):
        heartbeats.renew(gateway)
        heartbeats.renew(replica)
        assert heartbeats.alive() == Alive([gateway], [replica])
        clock.now_s += 100
        heartbeats.drop_expired()


def test_clusters_do_not_see_each_other(registry: Database, clock: Clock) -> None:
    blue, green = (Heartbeats(registry, clock, cluster=name) for name in ("default", "green"))
    for heartbeats, name in ((blue, "b"), (green, "g")):
        heartbeats.report_gateway(GatewayHeartbeat(f"{name}-gateway", 1, 1))
        heartbeats.report_replica(ReplicaHeartbeat(f"{name}-replica", 1, {f"{name}@1": None}))
    assert (gateways(blue), replicas(blue)) == (["b-gateway"], {"b-replica": {"b@1": None}})
    assert (gateways(green), replicas(green)) == (["g-gateway"], {"g-replica": {"g@1": None}})


@pytest.mark.parametrize("wrong_s", [-3600.0, 3600.0])
def test_a_machine_with_a_wrong_clock_drops_nobody(
    wrong_s: float, postgres_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(new_postgres_database(postgres_folder))
    heartbeats = Heartbeats(database)
    heartbeats.report_gateway(GatewayHeartbeat("right", 1, 1))
    right = time.time
    with monkeypatch.context() as machine:
        machine.setattr(time, "time", lambda: right() + wrong_s)
        assert gateways(heartbeats) == ["right"]
        heartbeats.drop_expired()
        heartbeats.report_gateway(GatewayHeartbeat("wrong", 1, 1))
        heartbeats.renew(GatewayHeartbeat("wrong", 1, 1))
    assert gateways(heartbeats) == ["right", "wrong"]
    database.close()


def test_replicas_come_by_id(heartbeats: Heartbeats) -> None:
    for name in ("c", "a", "b"):
        heartbeats.report_replica(ReplicaHeartbeat(name, 1, {}))
    assert list(replicas(heartbeats)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "kept"), [("x" * 501, "x" * 500), ("é" * 10_000, "é" * 500), ("x" * 500, "x" * 500), ("", "")]
)
def test_a_long_reason_is_cut(given: str, kept: str, heartbeats: Heartbeats) -> None:
    heartbeats.report_replica(ReplicaHeartbeat("r", 1, {"a": given}))
    assert replicas(heartbeats) == {"r": {"a": kept}}


def test_who_ends_is_gone_at_once(heartbeats: Heartbeats, registry: Database) -> None:
    for name in ("a", "b"):
        heartbeats.report_gateway(GatewayHeartbeat(name, 1, 1))
    for name in ("c", "d"):
        heartbeats.report_replica(ReplicaHeartbeat(name, 1, {"x": None}))
    heartbeats.forget("a")
    heartbeats.forget("c")
    heartbeats.forget("nobody")
    assert (gateways(heartbeats), replicas(heartbeats)) == (["b"], {"d": {"x": None}})
    assert rows(registry) == (1, 1, 1)


def test_rows_of_those_who_ended_without_a_word_are_dropped_in_the_end(
    heartbeats: Heartbeats, clock: Clock, registry: Database
) -> None:
    heartbeats.report_gateway(GatewayHeartbeat("a", 1, 1))
    heartbeats.report_replica(ReplicaHeartbeat("b", 1, {"x": None, "y": "no"}))
    clock.now_s += 30
    heartbeats.report_gateway(GatewayHeartbeat("c", 1, 1))
    heartbeats.report_replica(ReplicaHeartbeat("d", 1, {"x": None}))
    heartbeats.drop_expired()
    assert rows(registry) == (2, 2, 3)
    clock.now_s += 31
    heartbeats.drop_expired()
    assert rows(registry) == (1, 1, 1)


def test_a_version_is_adopted_and_an_older_one_left_once_all_gateways_did() -> None:
    def alive(*lives: tuple[int, int]) -> Alive:
        return Alive([GatewayHeartbeat(str(at), *life) for at, life in enumerate(lives)], [])

    assert alive((5, 3), (4, 4)).adopted(4)
    assert not alive((5, 3), (4, 4)).adopted(5)
    assert alive((5, 3), (4, 4)).all_began_at(3)
    assert not alive((5, 3), (4, 4)).all_began_at(4)
    assert alive().adopted(9)
    assert alive().all_began_at(9)
