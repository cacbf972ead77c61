"""A gateway's directory: what names stand for, and for how long a request holds on to that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dear_serving.adapters import directory as module
from dear_serving.adapters.directory import Directory, Served
from dear_serving.adapters.fleet import Fleet, GatewayLife
from dear_serving.adapters.revisions import Adapters, Revision
from dear_serving.errors import RegistryUnavailable
from dear_serving.registry.database import Database
from tests.adapters.conftest import Counting, away, now

Add = Callable[..., Revision]
BASE = Served("base", None, "chat")


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


@pytest.fixture
def directory(adapters: Adapters, fleet: Fleet) -> Directory:
    return Directory("gateway", BASE, adapters, fleet)


@pytest.fixture
def swap(add: Add, adapters: Adapters) -> Callable[..., Revision]:
    """Has a name point at weights of that value."""

    def swap(name: str = "legal", value: int = 1) -> Revision:
        revision = add(name, value, activate=True)
        adapters.staged(revision)
        return now(adapters, revision)

    return swap


def life(fleet: Fleet) -> tuple[int, int]:
    """The versions that the gateway said it goes by: that of new requests, and the oldest."""
    (gateway,) = fleet.living().gateways
    assert gateway.id == "gateway"
    return gateway.adopted, gateway.oldest


async def test_the_base_model_is_there_from_the_start(directory: Directory) -> None:
    assert (directory.models.version, dict(directory.models.served)) == (0, {"base": BASE})
    await directory.refresh()
    assert dict(directory.models.served) == {"base": BASE}
    assert BASE.revision == "base"


async def test_names_stand_for_their_active_revisions(
    directory: Directory, swap: Add, add: Add, adapters: Adapters
) -> None:
    legal, medical = swap("legal"), swap("medical")
    adapters.share("medical", False, actor="test")
    add("nowhere")
    await directory.refresh()
    assert list(directory.models.served.values()) == [
        BASE,
        Served("legal", legal.id, "plain"),
        Served("medical", medical.id, "plain", shared=False),
    ]
    assert directory.models.served["legal"].revision == legal.id
    assert directory.models.version == adapters.version()


async def test_no_adapter_stands_before_the_base_model(directory: Directory, swap: Add) -> None:
    swap("base")
    await directory.refresh()
    assert dict(directory.models.served) == {"base": BASE}


async def test_what_is_served_is_not_changed_by_those_who_read_it(directory: Directory) -> None:
    served: Any = directory.models.served
    with pytest.raises(TypeError):
        served["legal"] = BASE


async def test_a_request_keeps_the_models_it_began_with(directory: Directory, swap: Add) -> None:
    old = swap("legal", 1)
    await directory.refresh()
    with directory.hold() as models:
        new = swap("legal", 2)
        await directory.refresh()
        assert models.served["legal"].adapter == old.id
        with directory.hold() as later:
            assert later.served["legal"].adapter == new.id
        assert models.served["legal"].adapter == old.id


async def test_the_oldest_version_that_a_request_holds_is_said(
    directory: Directory, swap: Add, fleet: Fleet
) -> None:
    swap("legal", 1)
    await directory.refresh()
    first = directory.models.version
    assert life(fleet) == (first, first)
    one, other, third = directory.hold(), directory.hold(), directory.hold()
    one.__enter__()
    other.__enter__()
    swap("legal", 2)
    await directory.refresh()
    second = directory.models.version
    third.__enter__()
    swap("legal", 3)
    await directory.refresh()
    newest = directory.models.version
    assert first < second < newest
    assert life(fleet) == (newest, first)
    for held, oldest in ((one, first), (other, second), (third, newest)):
        held.__exit__(None, None, None)
        await directory.refresh()
        assert life(fleet) == (newest, oldest)


async def test_a_request_that_fails_lets_go_too(directory: Directory, swap: Add, fleet: Fleet) -> None:
    await directory.refresh()
    with pytest.raises(RuntimeError), directory.hold():
        swap("legal")
        await directory.refresh()
        raise RuntimeError
    await directory.refresh()
    assert life(fleet) == (directory.models.version, directory.models.version)


async def test_a_gateway_says_that_it_lives_before_it_reads_where_names_point(
    database: Database, fleet: Fleet
) -> None:
    class Watching(Adapters):
        """Has a look at the fleet whenever somebody reads."""

        def version(self) -> int:
            seen.append(list(fleet.living().gateways))
            return super().version()

        def pointers(self) -> Any:
            seen.append(list(fleet.living().gateways))
            return super().pointers()

    seen: list[list[GatewayLife]] = []
    adapters = Watching(database, 8)
    adapters.seed({})
    directory = Directory("gateway", BASE, adapters, fleet)
    await directory.refresh()
    assert seen == [[GatewayLife("gateway", 0, 0)]] * 2
    assert life(fleet) == (adapters.version(), adapters.version())


async def test_nothing_but_the_version_is_read_while_nothing_changes(
    directory: Directory, adapters: Counting, swap: Add
) -> None:
    swap("legal")
    await directory.refresh()
    adapters.reads.clear()
    for _ in range(3):
        await directory.refresh()
    assert adapters.reads == ["version"] * 3


async def test_the_models_stay_while_the_registry_does_not_answer(
    directory: Directory, swap: Add, database: Database, tmp_path: Path
) -> None:
    old = swap("legal", 1)
    await directory.refresh()
    before = directory.models
    with away(database, tmp_path):
        with pytest.raises(RegistryUnavailable):
            await directory.refresh()
        assert directory.models is before
        with directory.hold() as models:
            assert models.served["legal"].adapter == old.id
    new = swap("legal", 2)
    await directory.refresh()
    assert directory.models.served["legal"].adapter == new.id


async def test_a_gateway_that_could_not_say_so_at_first_says_so_later(
    directory: Directory, swap: Add, database: Database, fleet: Fleet, tmp_path: Path
) -> None:
    swap("legal")
    with away(database, tmp_path), pytest.raises(RegistryUnavailable):
        await directory.refresh()
    assert dict(directory.models.served) == {"base": BASE}
    await directory.refresh()
    assert directory.models.served.keys() == {"base", "legal"}
    assert life(fleet) == (directory.models.version, directory.models.version)


async def test_a_gateway_says_again_and_again_that_it_lives(
    directory: Directory, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await directory.refresh()
    fleet.forget("gateway")
    await directory.refresh()
    assert fleet.living().gateways == []
    monkeypatch.setattr(module, "BEAT_S", 0.0)
    await directory.refresh()
    assert life(fleet) == (0, 0)


async def test_a_retired_name_is_served_no_more(directory: Directory, swap: Add, adapters: Adapters) -> None:
    swap("legal")
    await directory.refresh()
    with directory.hold() as models:
        adapters.retire("legal", actor="test")
        await directory.refresh()
        assert directory.models.served.keys() == {"base"}
        assert models.served.keys() == {"base", "legal"}


async def test_a_gateway_that_leaves_is_forgotten(directory: Directory, fleet: Fleet) -> None:
    await directory.refresh()
    await directory.leave()
    assert fleet.living().gateways == []
