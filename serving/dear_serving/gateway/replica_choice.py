"""Chooses the engine replica for a request: one that uses its adapter already, unless it is overloaded."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from dear_serving.gateway import engine_replicas
from dear_serving.gateway.engine_replicas import Attempt
from dear_serving.protocol import HELD

logger = logging.getLogger(__name__)

_SPREAD = 1.25
_ASK_EVERY_S = 1.0
_PATIENT = 4  # the index from which Ray waits a second for a replica's answer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica to choose from: ``load`` is its number of requests, ``held`` its adapters (None: unknown)."""

    id: str
    load: int
    held: Collection[str] | None


def preference(adapter: str | None, places: Sequence[Candidate]) -> list[str]:
    """Order replicas by preference for an adapter.

    Requests to the base model (None) go to the less loaded of two replicas chosen at random. Loads are a
    second old, and with several gateways the least loaded of all would get everybody's requests.

    Each adapter has its own order of the replicas that hold it (of all, if none is known to), the same in
    every gateway. The order comes from rendezvous hashing, so that a replica that starts or stops moves few
    adapters. Replicas with at most 1.25 times the mean load come first (consistent hashing with bounded
    loads), and of the first two of them the less loaded. So requests for a hot adapter spread, and those for
    a rare one stay where its weights are in a slot and its prefixes are cached.

    Returns:
        The ids of all ``places``, best first.

    Sources: Mitzenmacher, The power of two choices, 2001; Mirrokni, Thorup and Zadimoghaddam, 2018.
    """
    if adapter is None:
        two = sorted(random.sample(places, min(2, len(places))), key=lambda place: place.load)
        rest = sorted((place for place in places if place not in two), key=lambda place: place.load)
        return [place.id for place in (*two, *rest)]
    order = sorted(places, key=lambda place: _weight(adapter, place.id), reverse=True)
    holding = [place for place in order if place.held is not None and adapter in place.held] or order
    max_load = math.ceil(_SPREAD * (sum(place.load for place in holding) + 1) / len(holding))
    within = [place for place in holding if place.load < max_load]
    within[:2] = sorted(within[:2], key=lambda place: place.load)
    over = sorted((place for place in holding if place.load >= max_load), key=lambda place: place.load)
    others = [place for place in order if place not in holding]
    return [place.id for place in (*within, *over, *others)]


class AdapterRouter(RequestRouter):  # type: ignore[misc]  # ray ships no types for it
    """Ray Serve's request router for engine replicas; every gateway has one.

    It asks every replica for its load once a second, while Ray's own view of it is up to ten seconds old, and
    tells this process's EngineReplicas what it learns of them.

    Serve copies this file, with all that is defined in it, into the gateway. So what the gateway shares with
    the router is defined in engine_replicas, and reached through that module.
    """

    def initialize_state(self) -> None:
        """See Ray: called before the router is told of replicas."""
        self._known = engine_replicas.engine_replicas_of(self._deployment_id.name)
        self._watch: asyncio.Task[None] | None = None
        self._leaving: dict[ReplicaID, RunningReplica] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See Ray: groups of replicas, best first; here one replica per group."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # if all are full, retry after a while
        attempt: Attempt | None = getattr(pending_request.routing_context, "attempt", None)
        replicas = {_name(replica.replica_id): replica for replica in candidate_replicas}
        loads = self._known.choosable(replicas, attempt.tried if attempt else ())
        held = {name: replicas[name].routing_stats.get(HELD) for name in loads}
        places = [Candidate(name, load, held[name]) for name, load in loads.items()]
        return [[replicas[name]] for name in preference(adapter_of(pending_request.args), places)]

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """As Ray's, for the attempt that this task sends.

        Ray gives a chosen replica to the pending request of the same id. The windows of one HTTP request
        share theirs. So each gets an id of its own here, and none the replica that was chosen for another.
        """
        attempt = engine_replicas.ATTEMPT.get()
        if not is_retry:
            pending_request.routing_context.attempt = attempt
            own_id = f"{pending_request.metadata.internal_request_id}-{id(pending_request):x}"
            pending_request.metadata = replace(pending_request.metadata, internal_request_id=own_id)
        chosen = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        if attempt is not None:
            self._known.assign(attempt, _name(chosen.replica_id))
        return chosen

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See Ray: Serve says which replicas run."""
        before = self._leaving | self._replicas
        super().update_replicas(replicas)
        self._known.update([_name(replica.replica_id) for replica in replicas])
        self._leaving = {one: replica for one, replica in before.items() if one not in self._replicas}
        if self._watch is None:
            self._watch = self._event_loop.create_task(self._ask_again_and_again())

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """See Ray."""
        super().on_replica_actor_died(replica_id)
        self._known.gone(_name(replica_id))

    async def _ask_again_and_again(self) -> None:
        """Ask the replicas for their loads: those that run, and those that leave and have calls of ours."""
        while True:
            self._leaving = {
                one: replica for one, replica in self._leaving.items() if self._known.open_on(_name(one))
            }
            asked = [*self._replicas.values(), *self._leaving.values()]
            try:
                loads = await self._probe_queue_lens(asked, _PATIENT)
            except Exception:  # a replica may go in between; the next round goes on
                logger.exception("engine replicas could not be asked for their loads")
                loads = []
            for replica, load in loads:
                if load is None:
                    self._known.unheard(_name(replica.replica_id))
                else:
                    self._known.heard(_name(replica.replica_id), load)
            await asyncio.sleep(_ASK_EVERY_S * random.uniform(0.75, 1.25))


def adapter_of(arguments: Sequence[Any]) -> str | None:
    """The adapter of a call of the engine protocol; None for the base model and other calls.

    OpenAI bodies name the base model by its id, which no replica holds as an adapter.
    """
    for argument in arguments:
        body = getattr(argument, "body", argument)
        adapter = body.get("model") if isinstance(body, dict) else getattr(argument, "adapter", None)
        if isinstance(adapter, str) and "@" in adapter:
            return adapter
    return None


def _name(replica: ReplicaID) -> str:
    return str(replica.unique_id)


def _weight(adapter: str, place: str) -> bytes:
    return hashlib.blake2b(f"{adapter}|{place}".encode(), digest_size=8).digest()
