"""The parts of one gateway replica."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from dear_serving.gateway.authenticator import Authenticator, bearer, matches_any
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.catalog import Catalog
from dear_serving.gateway.drain import Drain
from dear_serving.gateway.engine_replicas import Seen
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.fleet import GatewayReport
from dear_serving.gateway.label_scoring import LabelScoring
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.openai_service import OpenAIService
from dear_serving.gateway.peers import Peers
from dear_serving.gateway.request_admission import RequestAdmission
from dear_serving.gateway.rerank_service import RerankService
from dear_serving.gateway.worker_process import WorkerProcess
from dear_serving.metrics import Metrics, Page
from dear_serving.protocol import Engine
from dear_serving.registry.database import Database
from dear_serving.settings import Settings
from dear_serving.tenancy.tenants import Tenants
from dear_serving.tracing import Tracer

AskGateways = Callable[[str | None], Awaitable[tuple[list[Page], int]]]
"""Takes the tenant whose series are wanted, None for all; gives the pages of those gateways that answer in
time, and how many run."""

AskReports = Callable[[], Awaitable[tuple[list[GatewayReport], int]]]
"""Gives the reports of those gateways that answer in time, and how many run."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The objects that the routes of a gateway replica use.

    ``rerank``, ``openai`` and ``labels`` answer callers. ``catalog``, ``lifecycle`` and ``tenants`` are this
    gateway's access to the registry. ``authenticator``, ``arrivals``, ``admission``, ``budgets``, ``queue``
    and ``peers`` decide which requests are served, and when: ``arrivals`` bounds those whose body is not
    there yet, ``admission`` the others, ``peers`` knows the other gateways. ``drain`` knows whether the
    gateway is about to end. ``worker`` parses large bodies. ``admin_digests`` are digests of the admin keys.
    ``engines_seen`` says what this gateway sees of the engines. ``ask_gateways`` asks all gateways for their
    metrics, ``ask_reports`` for their reports; None: this is the only one. ``tracer`` begins traces; None:
    tracing is off.
    """

    settings: Settings
    engine: Engine
    rerank: RerankService
    openai: OpenAIService
    labels: LabelScoring
    catalog: Catalog
    lifecycle: Lifecycle
    database: Database
    tenants: Tenants
    authenticator: Authenticator
    arrivals: RequestAdmission
    admission: RequestAdmission
    budgets: Budgets
    queue: FairQueue
    peers: Peers
    metrics: Metrics
    worker: WorkerProcess
    admin_digests: tuple[bytes, ...] = ()
    engines_seen: Callable[[], Mapping[str, Seen]] = dict
    ask_gateways: AskGateways | None = None
    ask_reports: AskReports | None = None
    drain: Drain = field(default_factory=Drain)
    tracer: Tracer | None = None

    def is_admin(self, authorization: str | None) -> bool:
        """Whether an Authorization header has an admin key."""
        key = bearer(authorization)
        return key is not None and matches_any(key, self.admin_digests)

    def report(self) -> GatewayReport:
        """What this gateway says of itself, and of the engines."""
        first_stage = self.rerank.first_stage
        own = None if first_stage is None else first_stage.own
        return GatewayReport(
            self.catalog.gateway,
            self.drain.has_begun,
            self.arrivals.in_flight + self.admission.in_flight,
            self.queue.cost,
            self.engines_seen(),
            {} if own is None else own.client.seen(),
        )

    started_s: int = field(default_factory=lambda: int(time.time()))

    def close(self) -> None:
        """End the threads and the processes beside the gateway."""
        self.authenticator.close()
        self.rerank.threads.close()
        self.openai.grammars.close()
        self.worker.close()
        if self.tracer is not None:
            self.tracer.close()
