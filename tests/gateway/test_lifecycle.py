"""The lifecycle: a revision is staged when all hold it, and let go when nobody uses it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.heartbeats import Alive, Heartbeats
from dear_serving.adapters.intake import Intake
from dear_serving.adapters.preflight import WEIGHTS_FILE
from dear_serving.adapters.revisions import Adapter, Adapters, Revision, State
from dear_serving.adapters.store import Store
from dear_serving.errors import (
    AdapterNotLoadable,
    CapacityReached,
    DearError,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    RegistryUnavailable,
    UnknownModel,
)
from dear_serving.gateway import lifecycle as module
from dear_serving.gateway.catalog import Catalog, ServedModel
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.registry import changes
from dear_serving.registry.database import Database
from dear_serving.replica import adapter_sync as adapter_sync_module
from dear_serving.replica.adapter_sync import AdapterSync
from tests.support.adapters import TINY_BASE, Engine, away, now, tiny_adapter

CAPACITY = 4


@dataclass
class Canary:
    """Fails as it is told, by revision, and waits where it is told to."""

    tried: list[str] = field(default_factory=list)
    fails: dict[str, list[DearError]] = field(default_factory=dict)
    waits: dict[str, asyncio.Event] = field(default_factory=dict)

    async def __call__(self, revision: Revision) -> None:
        self.tried.append(revision.id)
        if revision.id in self.waits:
            await self.waits[revision.id].wait()
        if self.fails.get(revision.id):
            raise self.fails[revision.id].pop(0)


@dataclass
class Told:
    """What an observer was told."""

    swaps: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)

    def swapped(self, model: str) -> None:
        self.swaps.append(model)

    def drop_all_but(self, models: Collection[str], revisions: Collection[str]) -> None:
        self.models, self.revisions = sorted(models), sorted(revisions)


@dataclass
class Gateway:
    """One gateway's lifecycle, and what it works with."""

    lifecycle: Lifecycle
    catalog: Catalog
    canary: Canary
    told: Told

    def answers(self, name: str = "legal") -> str | None:
        """What answers to a name at this gateway."""
        served = self.catalog.models.served.get(name)
        return None if served is None else served.adapter


class World:
    """A registry and a store, with gateways and engine replicas that a test sets to work."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.adapters = Adapters(database, CAPACITY)
        self.heartbeats = Heartbeats(database)
        self.store = Store(str(folder / "store"))
        self.engines: dict[str, Engine] = {}

    def gateway(self, name: str = "gateway", adapters: Adapters | None = None, **given: Any) -> Gateway:
        adapters, heartbeats = adapters or self.adapters, given.get("heartbeats", self.heartbeats)
        catalog = Catalog(name, ServedModel("base", None, "plain"), adapters, heartbeats)
        intake = Intake(
            root=self.folder / "adapters",
            sources=(),
            scratch=self.folder / "scratch",
            base=BaseShape.from_config(TINY_BASE),
            max_rank=8,
            store=self.store,
        )
        canary, told = Canary(), Told()
        lifecycle = Lifecycle(adapters, heartbeats, catalog, intake, canary, told)
        return Gateway(lifecycle, catalog, canary, told)

    def replica(self, name: str = "replica") -> AdapterSync:
        self.engines[name] = Engine()
        cache = self.folder / f"cache-{name}"
        return AdapterSync(name, self.adapters, self.heartbeats, self.store, cache, self.engines[name])

    async def register(
        self, gateway: Gateway, name: str = "legal", value: int = 1, *, activate: bool = False
    ) -> Revision:
        source = f"{name}-{value}"
        tiny_adapter(self.folder / "adapters" / source, value)
        return await gateway.lifecycle.register(
            name, source, template="plain", shared=None, tenants=(), activate=activate, actor="test"
        )

    def now(self, revision: Revision) -> Revision:
        return now(self.adapters, revision)

    def state(self, revision: Revision) -> State:
        return self.now(revision).state


Worker = Gateway | AdapterSync


async def turn(*workers: Worker, times: int = 1) -> None:
    """Each does a round, and what it began beside it."""
    for _ in range(times):
        for worker in workers:
            await (worker.sync() if isinstance(worker, AdapterSync) else worker.lifecycle.round())
        await asyncio.sleep(0.005)


async def turn_until(condition: Callable[[], bool], *workers: Worker) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await turn(*workers)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.005)
    monkeypatch.setattr(changes, "_POLL_S", 0.02)
    monkeypatch.setattr(adapter_sync_module, "_RETRY_S", 0.005)


@pytest.fixture
def world(tmp_path: Path, database: Database) -> World:
    return World(tmp_path, database)


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world.gateway()


@pytest.fixture
def replica(world: World) -> AdapterSync:
    return world.replica()


async def in_service(
    world: World, gateway: Gateway, *others: Worker, name: str = "legal", value: int = 1
) -> Revision:
    """A revision that the gateway's name stands for."""
    revision = await world.register(gateway, name, value, activate=True)
    await turn_until(lambda: gateway.answers(name) == revision.id, gateway, *others)
    return world.now(revision)


# Coming in.


async def test_what_is_registered_is_kept_and_known(world: World, gateway: Gateway) -> None:
    revision = await world.register(gateway)
    assert (revision.name, revision.state, revision.rank) == ("legal", State.REGISTERED, 1)
    assert world.adapters.get("legal").revisions == [revision]
    assert (world.folder / "store" / revision.digest / WEIGHTS_FILE).is_file()


async def test_what_is_no_adapter_is_the_callers_fault(world: World, gateway: Gateway) -> None:
    with pytest.raises(InvalidRequest, match='adapter "legal": no such folder') as failure:
        await gateway.lifecycle.register(
            "legal", "nowhere", template="plain", shared=None, tenants=(), activate=False, actor="test"
        )
    assert failure.value.param == "source"
    assert world.adapters.list() == []


async def test_one_is_staged_when_all_replicas_hold_it_and_it_ranked(world: World, gateway: Gateway) -> None:
    first, second = world.replica("a"), world.replica("b")
    await turn(first, second)
    revision = await world.register(gateway)
    await turn(gateway, first, gateway, gateway)
    assert (world.state(revision), gateway.canary.tried) == (State.REGISTERED, [])
    gateway.canary.waits[revision.id] = asyncio.Event()
    await turn(second, gateway, gateway, times=3)
    assert (world.state(revision), gateway.canary.tried) == (State.REGISTERED, [revision.id])
    gateway.canary.waits[revision.id].set()
    await turn_until(lambda: world.state(revision) is State.STAGED, gateway)
    assert gateway.answers() is None


async def test_without_replicas_nothing_is_staged(world: World, gateway: Gateway) -> None:
    revision = await world.register(gateway, activate=True)
    await turn(gateway, times=5)
    assert (world.state(revision), gateway.canary.tried) == (State.REGISTERED, [])


async def test_one_that_is_meant_to_takes_over_once_it_is_staged(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await in_service(world, gateway, replica)
    assert revision.state is State.ACTIVE
    assert gateway.catalog.models.served["legal"].template == "plain"


async def test_a_busy_or_absent_engine_is_no_verdict(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await world.register(gateway)
    gateway.canary.fails[revision.id] = [
        EngineUnavailable("starting"),
        Overloaded("busy"),
        EngineUnavailable("starting"),
    ]
    await turn_until(lambda: world.state(revision) is not State.REGISTERED, gateway, replica)
    assert world.state(revision) is State.STAGED
    assert len(gateway.canary.tried) >= 4


@pytest.mark.parametrize(
    "error",
    [
        UnknownModel("it wrote nonsense"),
        InvalidRequest("it wrote nonsense"),
        AdapterNotLoadable("it wrote nonsense"),
    ],
)
async def test_one_that_cannot_rank_fails(
    error: DearError, world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await world.register(gateway, activate=True)
    gateway.canary.fails[revision.id] = [error]
    await turn_until(lambda: world.state(revision) is not State.REGISTERED, gateway, replica)
    assert (world.now(revision).state, world.now(revision).reason) == (State.FAILED, "it wrote nonsense")
    await turn_until(lambda: world.engines["replica"].loaded == {}, gateway, replica)


async def test_one_that_never_answers_fails(
    world: World, gateway: Gateway, replica: AdapterSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CANARY_S", 0.02)
    revision = await world.register(gateway)
    gateway.canary.waits[revision.id] = asyncio.Event()
    await turn_until(lambda: world.state(revision) is not State.REGISTERED, gateway, replica)
    assert world.state(revision) is State.FAILED
    assert (world.now(revision).reason or "").startswith("no answer in ")


async def test_one_that_a_single_replica_refuses_fails(world: World, gateway: Gateway) -> None:
    first, second = world.replica("a"), world.replica("b")
    revision = await world.register(gateway)
    world.engines["b"].refuses[revision.id] = "it is too large"
    await turn_until(lambda: world.state(revision) is not State.REGISTERED, gateway, first, second)
    assert (world.now(revision).state, world.now(revision).reason) == (State.FAILED, "it is too large")
    assert gateway.canary.tried == []
    await turn(first, second, gateway)
    assert world.engines["a"].loaded == {}


async def test_one_that_failed_does_not_touch_what_is_active(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    old = await in_service(world, gateway, replica)
    new = await world.register(gateway, value=2, activate=True)
    gateway.canary.fails[new.id] = [AdapterNotLoadable("no")]
    await turn_until(lambda: world.state(new) is State.FAILED, gateway, replica)
    await turn(gateway, replica, times=2)
    assert (gateway.answers(), world.state(old)) == (old.id, State.ACTIVE)


async def test_one_that_is_registered_again_is_not_judged_by_what_was_said_before(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    """The replica has not looked yet: what the heartbeats has of it is about the last time."""
    revision = await world.register(gateway)
    world.engines["replica"].refuses[revision.id] = "not enough memory"
    await turn_until(lambda: world.state(revision) is State.FAILED, replica, gateway)
    world.engines["replica"].refuses.clear()
    await world.register(gateway)
    await turn(gateway)
    await turn(replica, gateway, times=3)
    assert world.state(revision) is State.STAGED


async def test_a_replica_that_comes_later_has_to_hold_it_too(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    await turn(replica)
    late = world.replica("late")
    await turn(late)
    revision = await world.register(gateway)
    await turn(replica, gateway, times=3)
    assert gateway.canary.tried == []
    await turn_until(lambda: world.state(revision) is State.STAGED, gateway, late)


async def test_a_slow_canary_holds_up_no_other_name(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    slow = await world.register(gateway, "slow", activate=True)
    gateway.canary.waits[slow.id] = asyncio.Event()
    await turn_until(lambda: gateway.canary.tried == [slow.id], gateway, replica)
    old = await in_service(world, gateway, replica)
    new = await in_service(world, gateway, replica, value=2)
    await turn_until(lambda: world.state(old) is State.RETIRED, gateway, replica)
    assert (gateway.answers(), world.state(slow)) == (new.id, State.REGISTERED)
    assert gateway.canary.tried.count(slow.id) == 1
    gateway.canary.waits[slow.id].set()
    await turn_until(lambda: gateway.answers("slow") == slow.id, gateway, replica)


async def test_two_gateways_try_and_count_once(world: World, replica: AdapterSync) -> None:
    first, second = world.gateway("a"), world.gateway("b")
    revision = await world.register(first, activate=True)
    await turn_until(lambda: {first.answers(), second.answers()} == {revision.id}, first, second, replica)
    assert world.state(revision) is State.ACTIVE


# Going.


async def test_the_old_one_is_let_go_when_the_last_request_that_began_with_it_ends(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    old = await in_service(world, gateway, replica)
    with gateway.catalog.hold() as models:
        new = await in_service(world, gateway, replica, value=2)
        await turn(gateway, replica, times=3)
        assert models.served["legal"].adapter == old.id
        assert world.state(old) is State.DRAINING
        assert world.engines["replica"].loaded.keys() == {old.id, new.id}
    await turn_until(lambda: world.engines["replica"].loaded.keys() == {new.id}, gateway, replica)
    assert world.state(old) is State.RETIRED
    assert gateway.answers() == new.id


async def test_a_request_that_began_with_the_new_one_holds_up_nothing(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    old = await in_service(world, gateway, replica)
    await in_service(world, gateway, replica, value=2)
    with gateway.catalog.hold():
        await turn_until(lambda: world.state(old) is State.RETIRED, gateway, replica)


async def test_a_request_at_another_gateway_holds_the_old_one_too(world: World, replica: AdapterSync) -> None:
    first, second = world.gateway("a"), world.gateway("b")
    old = await in_service(world, first, second, replica)
    await turn_until(lambda: second.answers() == old.id, second)
    with second.catalog.hold():
        await in_service(world, first, second, replica, value=2)
        await turn(first, second, replica, times=3)
        assert world.state(old) is State.DRAINING
    await turn_until(lambda: world.state(old) is State.RETIRED, first, second, replica)


async def test_a_gateway_that_has_not_heard_of_a_swap_holds_the_old_one(
    world: World, replica: AdapterSync
) -> None:
    first, second = world.gateway("a"), world.gateway("b")
    old = await in_service(world, first, second, replica)
    await turn_until(lambda: second.answers() == old.id, second)
    await in_service(world, first, replica, value=2)
    await turn(first, replica, times=3)
    assert world.state(old) is State.DRAINING
    await second.catalog.leave()
    await turn_until(lambda: world.state(old) is State.RETIRED, first, replica)


async def test_a_name_that_is_retired_ends_with_its_last_request(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await in_service(world, gateway, replica)
    with gateway.catalog.hold():
        await asyncio.to_thread(world.adapters.retire, "legal", actor="test")
        await turn(gateway, replica, times=3)
        assert (gateway.answers(), world.state(revision)) == (None, State.DRAINING)
    await turn_until(lambda: world.engines["replica"].loaded == {}, gateway, replica)
    assert world.state(revision) is State.RETIRED


async def test_a_rollback_to_one_that_is_gone_brings_it_back(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    old = await in_service(world, gateway, replica)
    await in_service(world, gateway, replica, value=2)
    await turn_until(lambda: not world.engines["replica"].loaded.get(old.id), gateway, replica)
    await asyncio.to_thread(world.adapters.rollback, "legal", actor="test")
    await turn_until(lambda: gateway.answers() == old.id, gateway, replica)
    assert world.engines["replica"].loads.count(old.id) == 2


async def test_there_is_room_again_once_one_is_gone(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    for value in range(1, CAPACITY + 1):
        await world.register(gateway, value=value)
    with pytest.raises(CapacityReached):
        await world.register(gateway, value=9)
    await asyncio.to_thread(world.adapters.retire, "legal", actor="test")
    await turn_until(lambda: not world.adapters.wanted_on_engines()[1], gateway, replica)
    await world.register(gateway, value=9)


# Waiting for it.


async def settle(gateway: Gateway, revision: Revision, *workers: Worker) -> Revision:
    """What ``settled`` returns, while the others work."""
    waiting = asyncio.create_task(gateway.lifecycle.wait_until_settled(revision, 30))
    await turn_until(waiting.done, *workers)
    return await waiting


async def test_a_wait_ends_when_a_revision_is_staged_or_active(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    staged = await settle(gateway, await world.register(gateway), replica)
    assert staged == world.now(staged)
    assert staged.state is State.STAGED
    active = await settle(gateway, await world.register(gateway, value=2, activate=True), replica)
    assert (active.state, gateway.answers()) == (State.ACTIVE, active.id)


async def test_a_wait_ends_when_a_revision_failed(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await world.register(gateway, activate=True)
    gateway.canary.fails[revision.id] = [AdapterNotLoadable("no")]
    failed = await settle(gateway, revision, replica)
    assert (failed.state, failed.reason) == (State.FAILED, "no")


async def test_a_wait_ends_when_a_retired_one_is_gone(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await in_service(world, gateway, replica)
    await asyncio.to_thread(world.adapters.retire, "legal", actor="test")
    assert (await settle(gateway, revision, replica)).state is State.RETIRED


async def test_a_wait_goes_on_until_all_gateways_know(world: World, replica: AdapterSync) -> None:
    first, second = world.gateway("a"), world.gateway("b")
    await turn(first, second, replica)
    revision = await world.register(first, activate=True)
    waiting = asyncio.create_task(first.lifecycle.wait_until_settled(revision, 30))
    await turn_until(lambda: first.answers() == revision.id, replica)
    await turn(replica, times=10)
    assert not waiting.done()
    await turn_until(waiting.done, replica, second)
    assert (await waiting).state is State.ACTIVE
    assert second.answers() == revision.id


async def test_a_wait_ends_when_time_is_up(world: World, gateway: Gateway) -> None:
    revision = await world.register(gateway, activate=True)
    async with asyncio.timeout(5):
        found = await gateway.lifecycle.wait_until_settled(revision, 0.05)
        assert await gateway.lifecycle.wait_until_settled(revision, 0) == revision
    assert found == revision


async def test_a_gateway_serves_what_it_said_to_be_active(world: World, replica: AdapterSync) -> None:
    """One is staged just after the round: the wait may not end before the next."""

    class Hasty(Adapters):
        def get(self, name: str) -> Adapter:
            if not staged:
                staged.append(True)
                self.staged(revision)
            return super().get(name)

    staged: list[bool] = []
    gateway = world.gateway(adapters=Hasty(world.database, CAPACITY))
    revision = await world.register(gateway, activate=True)
    found = await settle(gateway, revision, replica)
    assert (found.state, gateway.answers()) == (State.ACTIVE, revision.id)


# What the observer is told.


async def test_the_observer_is_told_of_swaps_and_what_to_keep(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    told = gateway.told
    old = await in_service(world, gateway, replica)
    medical = await in_service(world, gateway, replica, name="medical")
    await turn(gateway, times=2)
    assert told.swaps == []
    assert told.models == ["base", "legal", "medical"]
    assert told.revisions == sorted(["base", old.id, medical.id])
    with gateway.catalog.hold():
        new = await in_service(world, gateway, replica, value=2)
        await turn(gateway, replica, times=2)
        assert told.swaps == ["legal"]
        assert old.id in told.revisions
    await turn_until(lambda: world.state(old) is State.RETIRED, gateway, replica)
    await turn(gateway, times=2)
    assert told.swaps == ["legal"]
    assert told.revisions == sorted(["base", new.id, medical.id])
    await asyncio.to_thread(world.adapters.retire, "medical", actor="test")
    await turn_until(lambda: told.models == ["base", "legal"], gateway, replica)
    assert told.revisions == sorted(["base", new.id])


async def test_a_swap_is_told_whenever_in_a_round_it_comes(world: World, replica: AdapterSync) -> None:
    class Interrupting(Heartbeats):
        """Something is activated while a round looks at who lives."""

        def alive(self) -> Alive:
            while meant:
                world.adapters.activate("legal", meant.pop(), actor="test")
            return super().alive()

    meant: list[str] = []
    gateway = world.gateway(heartbeats=Interrupting(world.database))
    await in_service(world, gateway, replica)
    new = await world.register(gateway, value=2)
    await turn_until(lambda: world.state(new) is State.STAGED, gateway, replica)
    waiting = await world.register(gateway, "other")
    gateway.canary.waits[waiting.id] = asyncio.Event()
    meant.append(new.digest)
    await turn(gateway, times=3)
    assert gateway.answers() == new.id
    assert gateway.told.swaps == ["legal"]


# Rounds.


async def test_a_round_fails_while_the_registry_does_not_answer(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await in_service(world, gateway, replica)
    with away(world.database, world.folder):
        for _ in range(2):
            with pytest.raises(RegistryUnavailable):
                await gateway.lifecycle.round()
        assert gateway.answers() == revision.id
    new = await in_service(world, gateway, replica, value=2)
    assert gateway.answers() == new.id


async def test_a_registry_that_goes_while_a_canary_sings_is_no_verdict(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    revision = await world.register(gateway)
    gateway.canary.waits[revision.id] = asyncio.Event()
    await turn_until(lambda: bool(gateway.canary.tried), gateway, replica)
    with away(world.database, world.folder):
        gateway.canary.waits[revision.id].set()
        await asyncio.sleep(0.05)
    await turn_until(lambda: world.state(revision) is State.STAGED, gateway, replica)


async def test_rounds_go_on_by_themselves_whatever_fails(
    world: World, gateway: Gateway, replica: AdapterSync
) -> None:
    def run() -> list[Awaitable[None]]:
        return [asyncio.create_task(gateway.lifecycle.run()), asyncio.create_task(replica.run())]

    running = asyncio.gather(*run())
    revision = await world.register(gateway, activate=True)
    await turn_until(lambda: gateway.answers() == revision.id)
    with away(world.database, world.folder):
        await asyncio.sleep(0.05)
    new = await world.register(gateway, value=2, activate=True)
    await turn_until(lambda: gateway.answers() == new.id)
    await turn_until(lambda: world.state(revision) is State.RETIRED)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_round_in_which_nothing_moves_asks_for_the_version_alone(
    world: World, gateway: Gateway, replica: AdapterSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_service(world, gateway, replica)
    await turn(gateway, times=2)
    for read in ("pointers", "wanted_on_engines", "get", "list"):
        monkeypatch.setattr(world.adapters, read, None)
    await turn(gateway, times=3)


async def test_who_lives_is_told(world: World, gateway: Gateway, replica: AdapterSync) -> None:
    revision = await in_service(world, gateway, replica)
    alive = await gateway.lifecycle.alive()
    assert [one.id for one in alive.gateways] == ["gateway"]
    assert [(one.id, dict(one.holds)) for one in alive.replicas] == [("replica", {revision.id: None})]
