"""Which engine replica a request goes to: where its adapter is warm, unless too many are there already."""

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
    """A replica as routing sees it. ``load``: requests there; ``held``: its adapters, None: not known yet."""

    id: str
    load: int
    held: Collection[str] | None


def preference(adapter: str | None, places: Sequence[Candidate]) -> list[str]:
    """Replicas by how well they suit, best first.

    Every adapter has an order of its own among those that hold it (all, where none is known to), the same
    for every gateway: rendezvous hashing, so that a replica that comes or goes moves few adapters. The first
    whose load is within 1.25 times the mean goes first: consistent hashing with bounded loads (Mirrokni,
    Thorup, Zadimoghaddam 2018), so that a hot adapter spreads and a rare one stays where its weights are in a
    slot and its prompts' prefixes cached. Requests to the base model go to the least loaded.

    Returns:
        The ids of all places.
    """
    if adapter is None:
        return [place.id for place in sorted(places, key=lambda place: place.load)]
    order = sorted(places, key=lambda place: _weight(adapter, place.id), reverse=True)
    holding = [place for place in order if place.held is not None and adapter in place.held] or order
    most = math.ceil(_SPREAD * (sum(place.load for place in holding) + 1) / len(holding))
    within = [place for place in holding if place.load < most]
    over = sorted((place for place in holding if place.load >= most), key=lambda place: place.load)
    others = [place for place in order if place not in holding]
    return [place.id for place in (*within, *over, *others)]


class AdapterRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # ray ships no types for it
    """Ray Serve's request router for engine replicas; every gateway has one.

    A replica that was chosen goes to a request with the id it was chosen for. The windows of one HTTP request
    share that id and their adapter, and Ray's index holds one of them: FIFOMixin gives the next in line its
    turn where the index has none left, without which that one would wait for ever.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """See Ray: replicas in ranks, one each here, the best first."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # where all are full, try again in a while
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
    """The adapter that a call of the engine protocol is for; None for the base model and other calls.

    OpenAI bodies name the base model by its id, which no replica holds as an adapter.
    """
    for argument in arguments:
        adapter = argument.get("model") if isinstance(argument, dict) else getattr(argument, "adapter", None)
        if isinstance(adapter, str) and "@" in adapter:
            return adapter
    return None


def _weight(adapter: str, place: str) -> bytes:
    return hashlib.blake2b(f"{adapter}|{place}".encode(), digest_size=8).digest()
