"""Which gateways and engines run, over REST, with the admin key."""

from __future__ import annotations

import asyncio
from typing import Literal, Self

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from dear_serving.gateway.engine_replicas import Sight
from dear_serving.gateway.fleet import GatewayReport, Replica, ReplicaRole, ReplicaState, replicas_of
from dear_serving.gateway.state import GatewayState
from dear_serving.http.access import ADMIN_PATH
from dear_serving.http.admin import require_admin
from dear_serving.http.recent import Recent, max_age_s
from dear_serving.http.reply import Reply

router = APIRouter(prefix=ADMIN_PATH, tags=["replicas"], dependencies=[Depends(require_admin)])


class ReplicaReply(Reply):
    """A gateway, an engine, or an engine that runs a first stage alone."""

    object: Literal["replica"] = "replica"
    id: str = Field(description="Serve's, the label `replica` of metrics.")
    role: ReplicaRole
    state: ReplicaState = Field(
        description=(
            "`serving`: it gets requests. `left_out`: an engine that failed, and gets none for a while. "
            "`silent`: it does not answer. `starting`: an engine that gets none yet. `ending`: a gateway "
            "that lets its requests end. `ended`: an engine that ran a moment ago."
        )
    )
    load: int | None = Field(
        description="Requests in flight of a gateway, calls in an engine; null: not known."
    )
    queued_tokens: int | None = Field(
        description="Cost of a gateway's work that waits or is in the engines, in tokens of a prompt."
    )
    current: bool | None = Field(
        description="Whether it follows the registry's latest version; null: it reports none."
    )
    revisions: dict[str, str] = Field(
        description='Of an engine, by revision id: "held", or why it could not be loaded.'
    )
    seen_by: dict[str, Sight] = Field(
        description="Of an engine, by gateway id: what that gateway sees; `state` is the worst of it."
    )

    @classmethod
    def of(cls, replica: Replica) -> Self:
        """What is known of a replica."""
        return cls(
            id=replica.id,
            role=replica.role,
            state=replica.state,
            load=replica.load,
            queued_tokens=replica.cost,
            current=replica.is_current,
            revisions={revision: reason or "held" for revision, reason in replica.revisions.items()},
            seen_by=dict(replica.seen_by),
        )


class ReplicaList(Reply):
    """All gateways and engines, gateways first."""

    object: Literal["list"] = "list"
    version: int = Field(description="The registry's; it grows with every change of an adapter.")
    data: list[ReplicaReply]


@router.get("/replicas")
async def list_replicas(request: Request, response: Response) -> ReplicaList:
    """Gateways and engines with their states, loads and revisions.

    Gateways are asked; one that does not answer in three seconds is `silent`. The reply may be as old as a
    `Cache-Control: max-age` of the request allows, ten seconds at most; `Age` says how old it is.
    """
    recent: Recent[ReplicaList] = request.app.state.replicas
    found, age_s = await recent.get(max_age_s(request.headers))
    response.headers["Age"] = str(int(age_s))
    return found


async def find_replicas(gateway: GatewayState) -> ReplicaList:
    """Ask the gateways and the registry."""
    # First: nobody can be behind a version that was read before he said which one he follows.
    version = await asyncio.to_thread(gateway.lifecycle.adapters.version)
    reports: list[GatewayReport] = []
    if gateway.ask_reports is not None:
        reports, _ = await gateway.ask_reports()
    if all(report.id != gateway.catalog.gateway for report in reports):  # Serve may not know of it yet
        reports.append(gateway.report())
    alive = await gateway.lifecycle.alive()
    return ReplicaList(
        version=version, data=[ReplicaReply.of(one) for one in replicas_of(alive, version, reports)]
    )
