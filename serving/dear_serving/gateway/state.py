"""The parts of one gateway replica."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dear_serving.gateway.authenticator import Authenticator, bearer, matches_any
from dear_serving.gateway.budgets import Budgets
from dear_serving.gateway.catalog import Catalog
from dear_serving.gateway.drain import Drain
from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.label_scoring import LabelScoring
from dear_serving.gateway.lifecycle import Lifecycle
from dear_serving.gateway.openai_service import OpenAIService
from dear_serving.gateway.peers import Peers
from dear_serving.gateway.request_admission import RequestAdmission
from dear_serving.gateway.rerank_service import RerankService
from dear_serving.gateway.worker_process import WorkerProcess
from dear_serving.metrics import Metrics
from dear_serving.protocol import Engine
from dear_serving.registry.database import Database
from dear_serving.settings import Settings
from dear_serving.tenancy.tenants import Tenants


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The objects that the routes of a gateway replica use.

    ``rerank``, ``openai`` and ``labels`` answer callers. ``catalog``, ``lifecycle`` and ``tenants`` are this
    gateway's access to the registry. ``authenticator``, ``arrivals``, ``admission``, ``budgets``, ``queue``
    and ``peers`` decide which requests are served, and when: ``arrivals`` bounds those whose body is not
    there yet, ``admission`` the others, ``peers`` knows the other gateways. ``drain`` knows whether the
    gateway is about to end. ``worker`` parses large bodies.
    ``admin_digests`` are digests of the admin keys.
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
    drain: Drain = field(default_factory=Drain)

    def is_admin(self, authorization: str | None) -> bool:
        """Whether an Authorization header has an admin key."""
        key = bearer(authorization)
        return key is not None and matches_any(key, self.admin_digests)

    started_s: int = field(default_factory=lambda: int(time.time()))

    def close(self) -> None:
        """End the threads and the processes beside the gateway."""
        self.authenticator.close()
        self.rerank.threads.close()
        self.openai.grammars.close()
        self.worker.close()
