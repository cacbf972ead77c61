"""The replicas that run: what all gateways see of them, and what they report to the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from dear_serving.adapters.heartbeats import Alive
from dear_serving.gateway.engine_replicas import Seen, Sight
from dear_serving.types import message

ReplicaRole = Literal["gateway", "engine", "first_stage"]

ReplicaState = Literal["serving", "left_out", "silent", "starting", "ending", "ended"]
"""States of a replica:

- ``serving``: it gets requests.
- ``left_out``: an engine that failed, and that some gateway sends nothing for a while.
- ``silent``: it does not answer.
- ``starting``: an engine that reports to the registry and gets no requests yet.
- ``ending``: a gateway that lets its requests end.
- ``ended``: an engine that ran a moment ago.
"""


@message
@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What a gateway says of itself, and of the engines.

    ``cost``: of what waits or is in the engines by way of it, in tokens of a prompt.
    """

    id: str
    ends: bool
    in_flight: int
    cost: int
    engines: Mapping[str, Seen]
    first_stage: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replica:
    """A gateway, an engine, or an engine that runs a first stage alone and reports nothing to the registry.

    Args:
        load: requests in flight of a gateway, calls of all gateways in an engine; None: not known.
        cost: of a gateway's work that waits or is in the engines, in tokens of a prompt; None: of an engine,
            or not known.
        is_current: whether it follows the registry's latest version; None: it reports none.
        revisions: of an engine: revision id -> None if loaded, else why loading failed.
        seen_by: of an engine: gateway id -> what that gateway sees.
    """

    id: str
    role: ReplicaRole
    state: ReplicaState
    load: int | None
    cost: int | None
    is_current: bool | None
    revisions: Mapping[str, str | None] = field(default_factory=dict)
    seen_by: Mapping[str, Sight] = field(default_factory=dict)


def replicas_of(alive: Alive, version: int, reports: Sequence[GatewayReport]) -> list[Replica]:
    """All replicas: gateways, engines, those of a first stage; each by id.

    Args:
        alive: who reported to the registry lately.
        version: the registry's.
        reports: of the gateways that answered.
    """
    engines = {report.id: report.engines for report in reports}
    first_stage = {report.id: report.first_stage for report in reports}
    return [
        *_gateways(alive, version, reports),
        *_engines("engine", alive, version, engines),
        *_engines("first_stage", Alive([], []), version, first_stage),
    ]


def _gateways(alive: Alive, version: int, reports: Sequence[GatewayReport]) -> list[Replica]:
    adopted = {one.id: one.adopted for one in alive.gateways}
    answered = {one.id: one for one in reports}
    found = []
    for name in sorted(adopted.keys() | answered.keys()):
        is_current = adopted[name] >= version if name in adopted else None
        if (report := answered.get(name)) is None:
            found.append(Replica(name, "gateway", "silent", None, None, is_current))
        else:
            state: ReplicaState = "ending" if report.ends else "serving"
            found.append(Replica(name, "gateway", state, report.in_flight, report.cost, is_current))
    return found


def _engines(
    role: ReplicaRole, alive: Alive, version: int, seen_by: Mapping[str, Mapping[str, Seen]]
) -> list[Replica]:
    """Engines that report to the registry, or that some gateway sees."""
    reported = {one.id: one for one in alive.replicas}
    found = []
    for name in sorted(reported.keys() | {name for engines in seen_by.values() for name in engines}):
        seen = {gateway: engines[name] for gateway, engines in seen_by.items() if name in engines}
        heartbeat = reported.get(name)
        found.append(
            Replica(
                name,
                role,
                _worst([one.sight for one in seen.values()]),
                sum(one.open for one in seen.values()) if seen else None,
                None,
                heartbeat.adopted >= version if heartbeat is not None else None,
                heartbeat.holds if heartbeat is not None else {},
                {gateway: one.sight for gateway, one in seen.items()},
            )
        )
    return found


def _worst(sights: Sequence[Sight]) -> ReplicaState:
    """The state that an operator should know of: Serve tells gateways of ends one after the other."""
    return max(sights, key=get_args(Sight).index) if sights else "starting"
