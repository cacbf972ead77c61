"""A gateway over the fake engine, and a replica that only remembers which adapters it was given."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dear_serving.adapters.heartbeats import Heartbeats
from dear_serving.adapters.intake import intake
from dear_serving.adapters.preflight import base_shape
from dear_serving.adapters.store import Store
from dear_serving.gateway.canary import rank_canary
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.state import GatewayState
from dear_serving.replica.adapter_sync import AdapterSync
from tests.conftest import ROOT
from tests.support.adapters import Engine
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def replica() -> Engine:
    """What the engine replica was told."""
    return Engine()


@pytest.fixture
def with_adapters(with_tenants: GatewayState, engine: FakeEngine, tmp_path: Path) -> GatewayState:
    """A gateway that takes adapters from a folder of the test's own; nothing runs yet."""
    settings = with_tenants.settings
    shutil.copytree(ROOT / "configs" / "demo" / "adapters", tmp_path / "adapters")
    settings = settings.model_copy(
        update={"adapters": settings.adapters.model_copy(update={"root": tmp_path / "adapters"})}
    )
    assert settings.model.source is not None
    lifecycle = Lifecycle(
        with_tenants.lifecycle.adapters,
        Heartbeats(with_tenants.database),
        with_tenants.catalog,
        intake(settings, base_shape(settings.model.source)),
        lambda revision: rank_canary(engine, with_tenants.rerank.builders(revision.template), revision.id),
        with_tenants.metrics,
    )
    return dataclasses.replace(with_tenants, settings=settings, lifecycle=lifecycle)


@pytest.fixture
def adapter_sync(with_adapters: GatewayState, replica: Engine) -> AdapterSync:
    """The replica's part in adapters; it does not run yet."""
    settings = with_adapters.settings.adapters
    heartbeats = Heartbeats(with_adapters.database)
    adapters = with_adapters.lifecycle.adapters
    return AdapterSync("replica", adapters, heartbeats, Store(settings.store), settings.cache, replica)


@pytest.fixture
async def served(with_adapters: GatewayState, adapter_sync: AdapterSync) -> AsyncIterator[GatewayState]:
    """The gateway and the replica at work."""
    await adapter_sync.start()
    running = (adapter_sync.run(), with_adapters.lifecycle.run())
    loops = [asyncio.create_task(one) for one in running]
    yield with_adapters
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
