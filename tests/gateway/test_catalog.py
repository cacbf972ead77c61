"""A gateway's catalog: what names stand for, and for how long a request holds on to that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dear_serving.adapters.heartbeats import GatewayHeartbeat, Heartbeats
from dear_serving.adapters.revisions import Adapters, Revision
from dear_serving.errors import RegistryUnavailable
from dear_serving.gateway import catalog as module
from dear_serving.gateway.catalog import Catalog, ServedModel
from dear_serving.registry.database import Database
from tests.support.adapters import Counting, away, now

Add = Callable[..., Revision]
BASE = ServedModel("base", None, "chat")


@pytest.fixture
def heartbeats(database: Database) -> Heartbeats:
    return Heartbeats(database)


@pytest.fixture
def catalog(adapters: Adapters, heartbeats: Heartbeats) -> Catalog:
    return Catalog("gateway", BASE, adapters, heartbeats)


@pytest.fixture
def swap(add: Add, adapters: Adapters) -> Callable[..., Revision]:
    """Has a name point at weights of that value."""

    def swap(name: str = "legal", value: int = 1) -> Revision:
        revision = add(name, value, activate=True)
        adapters.staged(revision)
        return now(adapters, revision)

    return swap


def life(heartbeats: Heartbeats) -> tuple[int, int]:
    """The versions that the gateway said it goes by: that of new requests, and the oldest."""
    (gateway,) = heartbeats.alive().gateways
    assert gateway.id == "gateway"
    return gateway.adopted, gateway.oldest


async def test_the_base_model_is_there_from_the_start(catalog: Catalog) -> None:
    assert (catalog.models.version, dict(catalog.models.served)) == (0, {"base": BASE})
    await catalog.refresh()
    assert dict(catalog.models.served) == {"base": BASE}
    assert BASE.revision == "base"


async def test_names_stand_for_their_active_revisions(
    catalog: Catalog, swap: Add, add: Add, adapters: Adapters
) -> None:
    legal, medical = swap("legal"), swap("medical")
    adapters.share("medical", False, actor="test")
    add("nowhere")
    await catalog.refresh()
    assert list(catalog.models.served.values()) == [
        BASE,
        ServedModel("legal", legal.id, "plain"),
        ServedModel("medical", medical.id, "plain", shared=False),
    ]
    assert catalog.models.served["legal"].revision == legal.id
    assert catalog.models.version == adapters.version()


async def test_no_adapter_stands_before_the_base_model(catalog: Catalog, swap: Add) -> None:
    swap("base")
    await catalog.refresh()
    assert dict(catalog.models.served) == {"base": BASE}


async def test_what_is_served_is_not_changed_by_those_who_read_it(catalog: Catalog) -> None:
    served: Any = catalog.models.served
    with pytest.raises(TypeError):
        served["legal"] = BASE


async def test_a_request_keeps_the_models_it_began_with(catalog: Catalog, swap: Add) -> None:
    old = swap("legal", 1)
    await catalog.refresh()
    with catalog.hold() as models:
        new = swap("legal", 2)
        await catalog.refresh()
        assert models.served["legal"].adapter == old.id
        with catalog.hold() as later:
            assert later.served["legal"].adapter == new.id
        assert models.served["legal"].adapter == old.id


async def test_the_oldest_version_that_a_request_holds_is_said(
    catalog: Catalog, swap: Add, heartbeats: Heartbeats
) -> None:
    swap("legal", 1)
    await catalog.refresh()
    first = catalog.models.version
    assert life(heartbeats) == (first, first)
    one, other, third = catalog.hold(), catalog.hold(), catalog.hold()
    one.__enter__()
    other.__enter__()
    swap("legal", 2)
    await catalog.refresh()
    second = catalog.models.version
    third.__enter__()
    swap("legal", 3)
    await catalog.refresh()
    newest = catalog.models.version
    assert first < second < newest
    assert life(heartbeats) == (newest, first)
    for held, oldest in ((one, first), (other, second), (third, newest)):
        held.__exit__(None, None, None)
        await catalog.refresh()
        assert life(heartbeats) == (newest, oldest)


async def test_a_request_that_fails_lets_go_too(catalog: Catalog, swap: Add, heartbeats: Heartbeats) -> None:
    await catalog.refresh()
    with pytest.raises(RuntimeError), catalog.hold():
        swap("legal")
        await catalog.refresh()
        raise RuntimeError
    await catalog.refresh()
    assert life(heartbeats) == (catalog.models.version, catalog.models.version)


async def test_a_gateway_says_that_it_lives_before_it_reads_where_names_point(
    database: Database, heartbeats: Heartbeats
) -> None:
    class Watching(Adapters):
        """Has a look at the heartbeats whenever somebody reads."""

        def version(self) -> int:
            seen.append(list(heartbeats.alive().gateways))
            return super().version()

        def pointers(self) -> Any:
            seen.append(list(heartbeats.alive().gateways))
            return super().pointers()

    seen: list[list[GatewayHeartbeat]] = []
    adapters = Watching(database, 8)
    adapters.register_configured({})
    catalog = Catalog("gateway", BASE, adapters, heartbeats)
    await catalog.refresh()
    assert seen == [[GatewayHeartbeat("gateway", 0, 0)]] * 2
    assert life(heartbeats) == (adapters.version(), adapters.version())


async def test_nothing_but_the_version_is_read_while_nothing_changes(
    catalog: Catalog, adapters: Counting, swap: Add
) -> None:
    swap("legal")
    await catalog.refresh()
    adapters.reads.clear()
    for _ in range(3):
        await catalog.refresh()
    assert adapters.reads == ["version"] * 3


async def test_the_models_stay_while_the_registry_does_not_answer(
    catalog: Catalog, swap: Add, database: Database, tmp_path: Path
) -> None:
    old = swap("legal", 1)
    await catalog.refresh()
    before = catalog.models
    with away(database, tmp_path):
        with pytest.raises(RegistryUnavailable):
            await catalog.refresh()
        assert catalog.models is before
        with catalog.hold() as models:
            assert models.served["legal"].adapter == old.id
    new = swap("legal", 2)
    await catalog.refresh()
    assert catalog.models.served["legal"].adapter == new.id


async def test_a_gateway_that_could_not_say_so_at_first_says_so_later(
    catalog: Catalog, swap: Add, database: Database, heartbeats: Heartbeats, tmp_path: Path
) -> None:
    swap("legal")
    with away(database, tmp_path), pytest.raises(RegistryUnavailable):
        await catalog.refresh()
    assert dict(catalog.models.served) == {"base": BASE}
    await catalog.refresh()
    assert catalog.models.served.keys() == {"base", "legal"}
    assert life(heartbeats) == (catalog.models.version, catalog.models.version)


async def test_a_gateway_says_again_and_again_that_it_lives(
    catalog: Catalog, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    await catalog.refresh()
    heartbeats.forget("gateway")
    await catalog.refresh()
    assert heartbeats.alive().gateways == []
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.0)
    await catalog.refresh()
    assert life(heartbeats) == (0, 0)


async def test_a_retired_name_is_served_no_more(catalog: Catalog, swap: Add, adapters: Adapters) -> None:
    swap("legal")
    await catalog.refresh()
    with catalog.hold() as models:
        adapters.retire("legal", actor="test")
        await catalog.refresh()
        assert catalog.models.served.keys() == {"base"}
        assert models.served.keys() == {"base", "legal"}


async def test_a_gateway_that_leaves_is_forgotten(catalog: Catalog, heartbeats: Heartbeats) -> None:
    await catalog.refresh()
    await catalog.leave()
    assert heartbeats.alive().gateways == []
