"""Chooses the engine replica for a request: one that uses its adapter already, unless it is overloaded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve._private.common import RequestMetadata
from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from dear_serving.protocol import HELD

_SPREAD = 1.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica to choose from: ``load`` is its number of requests, ``held`` its adapters (None: unknown)."""

    id: str
    load: int
    held: Collection[str] | None


def preference(adapter: str | None, places: Sequence[Candidate]) -> list[str]:
    """Order replicas by preference for an adapter.

    Requests to the base model (None) go to the least loaded replica. Each adapter has its own order of the
    replicas that hold it (of all, if none is known to), the same in every gateway. The order comes from
    rendezvous hashing, so that a replica that starts or stops moves few adapters. Replicas with at most 1.25
    times the mean load come first (consistent hashing with bounded loads). So requests for a hot adapter
    spread, and those for a rare one stay where its weights are in a slot and its prefixes are cached.

    Returns:
        The ids of all ``places``, best first.

    Source: Mirrokni, Thorup and Zadimoghaddam, 2018.
    """
    if adapter is None:
        return [place.id for place in sorted(places, key=lambda place: place.load)]
    order = sorted(places, key=lambda place: _weight(adapter, place.id), reverse=True)
    holding = [place for place in order if place.held is not None and adapter in place.held] or order
    max_load = math.ceil(_SPREAD * (sum(place.load for place in holding) + 1) / len(holding))
    within = [place for place in holding if place.load < max_load]
    over = sorted((place for place in holding if place.load >= max_load), key=lambda place: place.load)
    others = [place for place in order if place not in holding]
    return [place.id for place in (*within, *over, *others)]


class AdapterRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # ray ships no types for it
    """Ray Serve's request router for engine replicas; every gateway has one.

    Ray assigns a chosen replica to the pending request with the same request id. The windows of one HTTP
    request share that id and their adapter, but Ray's index keeps only one of them. FIFOMixin assigns the
    replica to the next request in the queue if the index has no match; otherwise that window would wait
    forever.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See Ray: groups of replicas, best first; here one replica per group."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # if all are full, retry after a while
        loads = self.replica_queue_len_cache
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        places = [
            Candidate(name, loads.get(replica.replica_id) or 0, replica.routing_stats.get(HELD))
            for name, replica in replicas.items()
        ]
        return [[replicas[name]] for name in preference(adapter_of(pending_request.args), places)]

    def _get_pending_request_matching_metadata(
        self, request_metadata: RequestMetadata | None = None
    ) -> PendingRequest | None:
        return self._get_pending_request_matching_internal_request_id(request_metadata)


def adapter_of(arguments: Sequence[Any]) -> str | None:
    """The adapter of a call of the engine protocol; None for the base model and other calls.

    OpenAI bodies name the base model by its id, which no replica holds as an adapter.
    """
    for argument in arguments:
        adapter = argument.get("model") if isinstance(argument, dict) else getattr(argument, "adapter", None)
        if isinstance(adapter, str) and "@" in adapter:
            return adapter
    return None


def _weight(adapter: str, place: str) -> bytes:
    return hashlib.blake2b(f"{adapter}|{place}".encode(), digest_size=8).digest()
