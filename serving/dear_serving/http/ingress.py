"""The gateway as a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from dear_serving import logs
from dear_serving.adapters.base_files import local_files
from dear_serving.adapters.hub_tokens import HubTokens
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.engine_client import EngineClient
from dear_serving.gateway.everyone import ask_everyone
from dear_serving.gateway.fleet import GatewayReport
from dear_serving.gateway.retry_budget import RetryBudget
from dear_serving.gateway.tokenizer import load_tokenizer
from dear_serving.http.app import create_app
from dear_serving.loopback import keep_on_loopback
from dear_serving.metrics import Page
from dear_serving.metrics_export import MetricsExport
from dear_serving.nodes import is_elsewhere
from dear_serving.protocol import Backlog
from dear_serving.settings import EngineSettings, Settings, check_shared


@serve.deployment
@serve.ingress()
class Gateway:
    """One gateway replica: HTTP and ranking, no model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self,
        engine: DeploymentHandle[Any],
        settings: Settings,
        base_source: str,
        key_digests: tuple[bytes, ...],
        admin_digests: tuple[bytes, ...],
        hub_tokens: HubTokens,
        home: str | None,
        scorer: DeploymentHandle[Any] | None = None,
    ) -> None:
        hub_tokens.use()
        keep_on_loopback()
        check_shared(settings.registry, settings.adapters, is_elsewhere=is_elsewhere(home))
        logs.configure(settings.logging, "gateway")
        serves = logging.getLogger("ray.serve")
        serves.setLevel(logging.WARNING)  # else a log line for every request
        serves.addFilter(logs.keep_texts_out)
        engines = _client(engine, settings.engine)
        self._gateways: DeploymentHandle[Any] | None = None
        with local_files(base_source) as files:
            tokenizer = load_tokenizer(files, settings.model.chat_template)
        scores, stage = None, settings.first_stage
        if scorer is not None and stage is not None and stage.source is not None and stage.engine is not None:
            with local_files(stage.source) as files:
                own_tokenizer = load_tokenizer(files)
            scores = _client(scorer, stage.engine), own_tokenizer
        self._state = state = build_gateway(
            settings,
            engines,
            tokenizer,
            base_source,
            key_digests,
            admin_digests,
            count_engines=lambda: engines.running,
            engines_seen=engines.seen,
            ask_gateways=partial(self._ask_gateways, "metrics"),
            ask_reports=partial(self._ask_gateways, "report"),
            scores=scores,
            name=serve.get_replica_context().replica_tag,
        )
        engines.report_to(state.metrics)
        engines.tell_backlog(lambda: Backlog(state.catalog.gateway, state.queue.cost))
        if scores is not None:
            scores[0].report_to(state.metrics)
        await self._state.catalog.refresh()
        self._export = asyncio.create_task(MetricsExport(state.metrics.registry.collect).run())

    async def _ask_gateways(self, method: str, *arguments: Any) -> tuple[list[Any], int]:
        """What all gateways answer; see AskGateways and AskReports."""
        if self._gateways is None:
            own = serve.get_replica_context()
            # Without a question to Serve's controller, which would block.
            handle = serve.get_deployment_handle(own.deployment, own.app_name, _check_exists=False)
            self._gateways = handle.options(_by_reference=False)
        return await ask_everyone(self._gateways, method, *arguments)

    async def metrics(self, tenant: str | None) -> Page:
        """This gateway's metrics, for the page of all."""
        return await asyncio.to_thread(self._state.metrics.page, tenant)

    async def report(self) -> GatewayReport:
        """What this gateway says of itself, and of the engines."""
        return self._state.report()

    def drain(self, serve_s: float) -> int:
        """Begin to end (see Drain); returns how many requests are being worked on."""
        self._state.drain.begin(serve_s)
        return self._state.arrivals.in_flight + self._state.admission.in_flight

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray asks for the app once the replica is constructed."""
        return create_app(self._state)


def _client(handle: DeploymentHandle[Any], settings: EngineSettings) -> EngineClient:
    """Calls to these engines."""
    return EngineClient(
        # By value: one gRPC call instead of objects in Ray's store, which costs milliseconds a window.
        handle.options(_by_reference=False),
        budget=RetryBudget(settings.max_ongoing_requests),
        wakes=settings.may_be_none,
        wake_s=settings.wake_timeout_s,
    )
