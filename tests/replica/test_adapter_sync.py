"""An engine replica's adapter_sync: what the registry wants is what it has, whatever fails on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.preflight import WEIGHTS_FILE
from dear_serving.adapters.revisions import Adapters, Revision, State
from dear_serving.adapters.store import Store
from dear_serving.errors import RegistryUnavailable
from dear_serving.registry import changes
from dear_serving.registry.database import Database
from dear_serving.replica import adapter_sync as module
from dear_serving.replica.adapter_sync import AdapterSync
from tests.support.adapters import Clock, Counting, Engine, away, now
from tests.support.waiting import until

Add = Callable[..., Revision]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.005)
    monkeypatch.setattr(changes, "_POLL_S", 0.005)


@pytest.fixture
def heartbeats(database: Database) -> Heartbeats:
    return Heartbeats(database)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def adapter_sync(
    tmp_path: Path, adapters: Adapters, heartbeats: Heartbeats, store: Store, engine: Engine
) -> AdapterSync:
    return AdapterSync("replica", adapters, heartbeats, store, tmp_path / "cache", engine)


def said(heartbeats: Heartbeats) -> dict[str, str | None]:
    """What the replica told the heartbeats that it holds."""
    (replica,) = heartbeats.alive().replicas
    assert replica.id == "replica"
    return dict(replica.holds)


def retire(adapters: Adapters, revision: Revision) -> None:
    adapters.retire(revision.name, revision.digest, actor="test")
    adapters.drained(now(adapters, revision))


async def test_what_is_wanted_is_taken_and_said(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats, tmp_path: Path
) -> None:
    first, second = add("legal"), add("medical")
    await adapter_sync.sync()
    assert engine.loaded == {one.id: tmp_path / "cache" / one.digest for one in (first, second)}
    assert adapter_sync.held() == [first.id, second.id]
    assert said(heartbeats) == {first.id: None, second.id: None}


async def test_a_replica_that_holds_nothing_says_so(
    adapter_sync: AdapterSync, heartbeats: Heartbeats
) -> None:
    await adapter_sync.sync()
    assert (adapter_sync.held(), said(heartbeats)) == ([], {})


async def test_what_comes_later_is_taken_beside_the_rest(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    first = add("legal")
    await adapter_sync.sync()
    second = add("legal", 2)
    await adapter_sync.sync()
    assert engine.loads == [first.id, second.id]
    assert said(heartbeats) == {first.id: None, second.id: None}


async def test_all_states_on_engines_are_held_and_what_is_retired_is_let_go(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    for state in (State.REGISTERED, State.STAGED, State.ACTIVE, State.DRAINING):
        if state is State.STAGED:
            adapters.staged(revision)
        elif state is State.ACTIVE:
            adapters.activate("legal", revision.digest, actor="test")
        elif state is State.DRAINING:
            adapters.retire("legal", actor="test")
        assert now(adapters, revision).state is state
        await adapter_sync.sync()
        assert adapter_sync.held() == [revision.id]
    assert (engine.loads, engine.unloads) == ([revision.id], [])
    adapters.drained(now(adapters, revision))
    await adapter_sync.sync()
    assert (engine.loaded, engine.unloads, said(heartbeats)) == ({}, [revision.id], {})


async def test_it_keeps_what_it_has_while_the_registry_does_not_answer(
    add: Add,
    adapters: Adapters,
    adapter_sync: AdapterSync,
    engine: Engine,
    heartbeats: Heartbeats,
    database: Database,
    tmp_path: Path,
) -> None:
    revision = add("legal")
    await adapter_sync.sync()
    with away(database, tmp_path):
        for _ in range(3):
            with pytest.raises(RegistryUnavailable):
                await adapter_sync.sync()
        assert adapter_sync.held() == [revision.id]
    retire(adapters, revision)
    await adapter_sync.sync()
    assert (engine.loads, engine.unloads) == ([revision.id], [revision.id])
    assert said(heartbeats) == {}


async def test_a_reason_is_said_after_three_tries(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    good, bad = add("legal"), add("medical")
    engine.refuses[bad.id] = "it is too large"
    given_up: list[int] = []
    adapter_sync._on_failure = lambda: given_up.append(1)
    for tries in (1, 2):
        await adapter_sync.sync()
        assert given_up == []
        assert engine.loads.count(bad.id) == tries
        assert said(heartbeats) == {good.id: None}
    for _ in range(3):
        await adapter_sync.sync()
        assert said(heartbeats) == {good.id: None, bad.id: "it is too large"} == adapter_sync.outcomes()
        assert adapter_sync.held() == [good.id]
        assert given_up == [1]
    assert engine.loads == [good.id, *[bad.id] * 3]


async def test_what_loads_at_the_third_try_is_held(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    engine.refuses[revision.id] = "not now"
    await adapter_sync.sync()
    await adapter_sync.sync()
    engine.refuses.clear()
    await adapter_sync.sync()
    assert said(heartbeats) == {revision.id: None}


async def test_what_the_store_does_not_have_is_a_reason_too(
    add: Add, adapter_sync: AdapterSync, heartbeats: Heartbeats, tmp_path: Path
) -> None:
    revision = add("legal")
    (tmp_path / "store" / revision.digest / WEIGHTS_FILE).write_bytes(b"damaged")
    for _ in range(3):
        await adapter_sync.sync()
    assert said(heartbeats) == {revision.id: f"the store's copy of {revision.digest[:12]} is damaged"}


async def test_one_that_was_refused_is_tried_anew_when_it_is_registered_again(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    engine.refuses[revision.id] = "no"
    for _ in range(3):
        await adapter_sync.sync()
    adapters.failed(revision, "no")
    await adapter_sync.sync()
    assert (said(heartbeats), engine.unloads) == ({}, [])
    engine.refuses.clear()
    add("legal")
    await adapter_sync.sync()
    assert said(heartbeats) == {revision.id: None}


async def test_an_active_one_that_the_store_could_not_give_is_taken_once_it_can(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, heartbeats: Heartbeats, tmp_path: Path
) -> None:
    """A replica that starts while the store is away would else refuse its requests for ever."""
    revision = add("legal", activate=True)
    adapters.staged(revision)
    (tmp_path / "store").rename(tmp_path / "away")
    for _ in range(3):
        await adapter_sync.sync()
    (tmp_path / "away").rename(tmp_path / "store")
    for _ in range(3):
        await adapter_sync.sync()
    assert adapter_sync.held() == [revision.id]
    assert said(heartbeats) == {revision.id: None}


async def test_what_a_request_uses_is_unloaded_later(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    await adapter_sync.sync()
    engine.busy.add(revision.id)
    retire(adapters, revision)
    for tries in (1, 2, 3):
        await adapter_sync.sync()
        assert engine.unloads == [revision.id] * tries
        assert adapter_sync.held() == [revision.id]
    engine.busy.clear()
    await adapter_sync.sync()
    assert (engine.loaded, said(heartbeats)) == ({}, {})


async def test_one_registered_again_before_it_was_unloaded_is_not_loaded_twice(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    await adapter_sync.sync()
    engine.busy.add(revision.id)
    retire(adapters, revision)
    await adapter_sync.sync()
    add("legal")
    engine.busy.clear()
    await adapter_sync.sync()
    assert (engine.loads, engine.unloads) == ([revision.id], [revision.id])
    assert said(heartbeats) == {revision.id: None}


async def test_one_that_was_unloaded_and_comes_back_is_loaded_again(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine
) -> None:
    revision = add("legal")
    await adapter_sync.sync()
    retire(adapters, revision)
    await adapter_sync.sync()
    add("legal")
    await adapter_sync.sync()
    assert engine.loads == [revision.id] * 2
    assert engine.loaded.keys() == {revision.id}


async def test_nothing_but_the_version_is_read_while_nothing_changes(
    add: Add, adapters: Counting, adapter_sync: AdapterSync
) -> None:
    add("legal")
    await adapter_sync.sync()
    adapters.reads.clear()
    for _ in range(5):
        await adapter_sync.sync()
    assert adapters.reads == ["version"] * 5
    add("medical")
    await adapter_sync.sync()
    assert adapters.reads[5:] == ["version", "wanted_on_engines"]


async def test_it_says_that_it_lives_again_and_again(
    adapter_sync: AdapterSync, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    await adapter_sync.sync()
    heartbeats.forget("replica")
    await adapter_sync.sync()
    assert heartbeats.alive().replicas == []
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.0)
    await adapter_sync.sync()
    assert said(heartbeats) == {}


async def test_a_fault_of_the_engine_does_not_make_it_forget_what_is_wanted(
    add: Add, adapter_sync: AdapterSync, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine raises may be none of ours, such as that its process died."""

    async def fail(revision: str, folder: Path) -> None:
        raise RuntimeError("the engine is gone")

    await adapter_sync.sync()
    revision = add("legal")
    with monkeypatch.context() as patched:
        patched.setattr(engine, "load", fail)
        with pytest.raises(RuntimeError):
            await adapter_sync.sync()
    await adapter_sync.sync()
    assert adapter_sync.held() == [revision.id]


async def test_what_it_let_go_of_is_not_said_to_be_held_while_another_is_loaded(
    add: Add, adapters: Adapters, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    """Else one that is registered again meanwhile would be staged, and its name point at nothing."""
    gone = add("legal")
    await adapter_sync.sync()
    retire(adapters, gone)
    add("medical")
    load, seen = engine.load, list[dict[str, str | None]]()

    async def slow(revision: str, folder: Path) -> None:
        seen.append(said(heartbeats))
        await load(revision, folder)

    engine.load = slow  # type: ignore[method-assign]
    await adapter_sync.sync()
    assert engine.unloads == [gone.id]
    assert [gone.id in holds for holds in seen] == [False]


async def test_a_replica_lives_on_while_it_loads(
    add: Add,
    adapters: Adapters,
    database: Database,
    store: Store,
    engine: Engine,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else others that hold a revision would be all there are, and it be staged without this one."""
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    heartbeats = Heartbeats(database, clock)
    adapter_sync = AdapterSync("replica", adapters, heartbeats, store, tmp_path / "cache", engine)
    await adapter_sync.sync()
    add("legal")
    load, lived = engine.load, list[bool]()

    async def slow(revision: str, folder: Path) -> None:
        clock.now_s += 7
        await until(lambda: bool(heartbeats.alive().replicas))
        lived.append(True)
        await load(revision, folder)

    engine.load = slow  # type: ignore[method-assign]
    await adapter_sync.start()
    assert lived == [True]


async def settling(adapter_sync: AdapterSync, condition: Callable[[], bool]) -> asyncio.Task[None]:
    """``start``, which is still at it when ``condition`` holds."""
    starting = asyncio.create_task(adapter_sync.start())
    await until(condition)
    assert not starting.done()
    return starting


async def test_a_start_ends_when_all_that_is_wanted_is_held(
    add: Add,
    adapter_sync: AdapterSync,
    engine: Engine,
    heartbeats: Heartbeats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TRIES", 1000)
    good, bad = add("legal"), add("medical")
    engine.refuses[bad.id] = "not now"
    starting = await settling(adapter_sync, lambda: engine.loads.count(bad.id) > 3)
    engine.refuses.clear()
    async with asyncio.timeout(5):
        await starting
    assert said(heartbeats) == {good.id: None, bad.id: None}


async def test_a_start_ends_when_what_is_wanted_is_known_not_to_load(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    revision = add("legal")
    engine.refuses[revision.id] = "no"
    async with asyncio.timeout(5):
        await adapter_sync.start()
    assert said(heartbeats) == {revision.id: "no"}
    assert engine.loads == [revision.id] * 3


async def test_an_engine_in_the_place_of_a_dead_one_gets_everything_again(
    add: Add, adapter_sync: AdapterSync, engine: Engine, heartbeats: Heartbeats
) -> None:
    lost, failed = add("legal"), add("medical")
    engine.refuses[failed.id] = "the engine is restarting"
    async with asyncio.timeout(5):
        await adapter_sync.start()
        engine.loaded.clear()
        engine.refuses.clear()
        await adapter_sync.start()
    assert engine.loaded.keys() == {lost.id, failed.id}
    assert said(heartbeats) == {lost.id: None, failed.id: None}


async def test_a_start_waits_for_the_store(
    add: Add, adapter_sync: AdapterSync, engine: Engine, tmp_path: Path
) -> None:
    """An engine without its adapters would take their requests."""
    revision = add("legal")
    (tmp_path / "store").rename(tmp_path / "away")
    starting = await settling(adapter_sync, lambda: adapter_sync._failures.total() > 3)
    (tmp_path / "away").rename(tmp_path / "store")
    async with asyncio.timeout(10):
        await starting
    assert engine.loaded.keys() == {revision.id}


async def test_a_start_waits_for_no_file_that_the_store_does_not_have(
    add: Add, adapter_sync: AdapterSync, heartbeats: Heartbeats, tmp_path: Path
) -> None:
    revision = add("legal")
    (tmp_path / "store" / revision.digest / WEIGHTS_FILE).unlink()
    async with asyncio.timeout(10):
        await adapter_sync.start()
    assert said(heartbeats) == {revision.id: "the store cannot be read: a file is missing"}


async def test_a_start_waits_for_the_registry(
    add: Add,
    adapter_sync: AdapterSync,
    adapters: Counting,
    engine: Engine,
    database: Database,
    tmp_path: Path,
) -> None:
    revision = add("legal")
    with away(database, tmp_path):
        starting = await settling(adapter_sync, lambda: len(adapters.reads) > 3)
    async with asyncio.timeout(5):
        await starting
    assert engine.loaded.keys() == {revision.id}


async def test_rounds_go_on_whatever_fails(
    add: Add,
    adapter_sync: AdapterSync,
    adapters: Counting,
    engine: Engine,
    database: Database,
    tmp_path: Path,
) -> None:
    running = asyncio.create_task(adapter_sync.run())
    await until(lambda: bool(adapters.reads))
    with away(database, tmp_path):
        adapters.reads.clear()
        await until(lambda: len(adapters.reads) > 3)
    revision = await asyncio.to_thread(add, "legal")
    await until(lambda: revision.id in engine.loaded)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
