"""The router on Ray's own base class, over replicas that behave as Serve's do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest

from dear_serving.gateway import engine_replicas
from dear_serving.gateway.engine_replicas import ATTEMPT, Attempt, EngineReplicas
from dear_serving.protocol import HELD, GenerationRequest
from tests.support.waiting import until

pytestmark = pytest.mark.integration

DEPLOYMENT = DeploymentID("Engine", "dear")
ADAPTERS = [f"domain-{number}@0123456789ab" for number in range(12)]


class Replica:
    """A running replica: its load, or what is raised instead; None: no answer."""

    max_ongoing_requests = 512

    def __init__(self, name: str, load: int | Exception | None = 0) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.load = load
        self.asked = 0
        self.routing_stats = {HELD: ADAPTERS}

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        if self.load is None:
            await asyncio.sleep(600)
        if isinstance(self.load, Exception):
            raise self.load
        assert isinstance(self.load, int)
        return self.load


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> EngineReplicas:
    own = EngineReplicas()
    monkeypatch.setattr(engine_replicas, "_OF", {DEPLOYMENT.name: own})
    return own


@pytest.fixture(scope="module")
def adapter_router() -> Any:
    """The class as a gateway gets it: Serve copies it by value."""
    config = RequestRouterConfig(request_router_class="dear_serving.gateway.replica_choice.AdapterRouter")
    copied = config.get_request_router_class()
    copied._ask_again_and_again.__globals__.update({"_ASK_EVERY_S": 0.05, "_PATIENT": 0})
    return copied


@pytest.fixture
async def router(adapter_router: Any, replicas: EngineReplicas) -> AsyncIterator[Any]:
    made = adapter_router(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )
    made.initialize_state()
    yield made
    if made._watch is not None:
        made._watch.cancel()


async def send(router: Any, adapter: str | None = None, tried: set[str] | None = None) -> tuple[str, Attempt]:
    """Which replica a call gets; all calls have the id of one HTTP request."""
    attempt = Attempt(tried or set())
    token = ATTEMPT.set(attempt)
    try:
        metadata = RequestMetadata(request_id="r", internal_request_id="same")
        pending = PendingRequest([GenerationRequest([1], 1, adapter, "id")], {}, metadata)
        task = asyncio.create_task(router._choose_replica_for_request(pending))
    finally:
        ATTEMPT.reset(token)
    async with asyncio.timeout(20):
        chosen: Any = await task
    return chosen.replica_id.unique_id, attempt


async def test_every_call_learns_its_replica_and_gets_the_one_chosen_for_it(
    router: Any, replicas: EngineReplicas
) -> None:
    router.update_replicas([Replica(name) for name in ("a", "b", "c", "d")])
    assert replicas.running == 4
    homes = {adapter: (await send(router, adapter))[0] for adapter in ADAPTERS}
    # All at once under one id, as the windows of a request: none takes another's place.
    sent = await asyncio.gather(*(send(router, adapter, {"a"}) for adapter in ADAPTERS * 3))
    assert all(name == attempt.replica for name, attempt in sent)
    assert "a" not in {name for name, _ in sent}
    assert len(set(homes.values())) > 1


async def test_replicas_of_another_deployment_are_known_apart(
    router: Any, replicas: EngineReplicas, adapter_router: Any
) -> None:
    other = adapter_router(
        deployment_id=DeploymentID("FirstStage", "dear"), handle_source=DeploymentHandleSource.REPLICA
    )
    other.initialize_state()
    try:
        router.update_replicas([Replica("a"), Replica("b")])
        other.update_replicas([Replica("c")])
        assert set(replicas.seen()) == {"a", "b"}
        assert set(engine_replicas.engine_replicas_of("FirstStage").seen()) == {"c"}
    finally:
        other._watch.cancel()


async def test_loads_are_asked_for_and_the_less_loaded_is_chosen(
    router: Any, replicas: EngineReplicas
) -> None:
    busy, idle = Replica("busy", 40), Replica("idle", 0)
    router.update_replicas([busy, idle])
    await until(lambda: replicas.choosable(["busy"]) == {"busy": 40})
    assert {(await send(router))[0] for _ in range(20)} == {"idle"}
    before = idle.asked
    await until(lambda: idle.asked > before + 2)


async def test_a_replica_that_does_not_answer_gets_nothing_and_loses_its_calls(
    router: Any, replicas: EngineReplicas
) -> None:
    hung, well = Replica("hung"), Replica("well")
    router.update_replicas([hung, well])
    attempt = (await send(router, None, {"well"}))[1]
    assert attempt.replica == "hung"
    hung.load = None
    await until(lambda: replicas.is_lost(attempt))
    assert {(await send(router))[0] for _ in range(20)} == {"well"}
    router.update_replicas([well])  # Serve gave it up: its call is still looked after
    assert replicas.is_lost(attempt)
    replicas.finish(attempt)


async def test_a_dead_replica_is_gone_though_serve_lists_it_again(
    router: Any, replicas: EngineReplicas
) -> None:
    dead, well = Replica("dead"), Replica("well")
    router.update_replicas([dead, well])
    dead.load = ActorDiedError()
    await until(lambda: replicas.running == 1)
    router.update_replicas([dead, well])
    assert replicas.running == 1
    assert {(await send(router))[0] for _ in range(20)} == {"well"}
