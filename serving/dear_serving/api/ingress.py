"""The gateway as a Ray Serve deployment."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from dear_serving.adapters.templates import load_template
from dear_serving.api.gateway import GatewayState
from dear_serving.api.routes import create_app
from dear_serving.engine.handle import ServeEngine
from dear_serving.engine.tokenizer import load_tokenizer
from dear_serving.metrics import Metrics
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.registry.database import open_database
from dear_serving.settings import Settings
from dear_serving.tenancy.admission import Admission
from dear_serving.tenancy.budgets import Budgets
from dear_serving.tenancy.fairness import FairQueue
from dear_serving.tenancy.keyring import KeyRing
from dear_serving.tenancy.tenants import Tenants


def running_replicas(engine: DeploymentHandle[Any]) -> int:
    """How many replicas of the engine Serve counts as running."""
    application = serve.status().applications[engine.app_name]
    return int(application.deployments[engine.deployment_name].replica_states.get("RUNNING", 0))


def fair_queue(settings: Settings) -> FairQueue:
    """One gateway's share of the engines: each replica of it lets in as many tokens as the others."""
    share = settings.engine.replicas / settings.gateway.replicas
    return FairQueue(
        alone=max(1, int(settings.engine.max_tokens * share)),
        shared=max(1, int(settings.engine.max_shared_tokens * share)),
    )


@serve.deployment
@serve.ingress()
class Gateway:
    """One HTTP replica: cheap, without a model, as many as the traffic needs."""

    def __init__(
        self,
        engine: DeploymentHandle[Any],
        settings: Settings,
        base_source: str,
        revisions: dict[str, str],
        key_digests: tuple[bytes, ...],
        admin_digests: tuple[bytes, ...],
    ) -> None:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # no line a request
        tokenizer = load_tokenizer(base_source, settings.model.chat_template)
        builders = {
            name: PromptBuilder(
                load_template(template, settings.ranking.templates),
                tokenizer,
                settings.engine.max_model_len,
                settings.ranking.max_reasoning_tokens,
            )
            for name, template in settings.templates().items()
        }
        for builder in builders.values():
            builder.layout(settings.ranking.window_size)  # a chat template that fails, fails here
        tenants = Tenants(open_database(settings.registry.url))
        self._state = GatewayState(
            settings=settings,
            # By value: one gRPC call instead of objects in Ray's store, which costs milliseconds a window.
            engine=ServeEngine(engine.options(_by_reference=False), lambda: running_replicas(engine)),
            builders=builders,
            revisions=revisions,
            admission=Admission(settings.limits.max_requests_in_flight),
            metrics=Metrics(),
            tenants=tenants,
            keyring=KeyRing(tenants, key_digests, open_door=settings.tenancy.open),
            budgets=Budgets(),
            queue=fair_queue(settings),
            admin_digests=admin_digests,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray asks for the app once the replica is constructed."""
        return create_app(self._state)
