"""The whole HTTP surface as a FastAPI app that any server can run: Ray's proxy, or a test in process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException

from dear_serving.errors import RegistryUnavailable, RequestError
from dear_serving.gateway.state import GatewayState
from dear_serving.http import adapters, admin, errors, health, label_scores, openai, replicas, rerank
from dear_serving.http.dialects.parse import parse_rerank
from dear_serving.http.middleware import RequestMiddleware
from dear_serving.http.openapi import ABOUT, publish
from dear_serving.http.pages import page_routes
from dear_serving.http.recent import Recent
from dear_serving.http.trusted_host import TrustedHost

router = APIRouter()
for one in (rerank, label_scores, openai, admin, adapters, replicas, health):
    router.include_router(one.router)
router.include_router(adapters.vllm_router)
router.include_router(rerank.compat_router)


def create_app(gateway: GatewayState) -> FastAPI:
    """Every route over one gateway. The gateway's lifecycle runs while the app does."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work = (
            gateway.lifecycle.run(),
            gateway.peers.run(),
            gateway.metrics.watch_loop(),
            gateway.worker.start(parse_rerank),
        )
        running = [asyncio.create_task(one) for one in work]
        gc.collect()
        gc.freeze()  # else a collection looks at all imported modules, which takes a third of a second
        yield
        for task in running:
            task.cancel()
        gateway.close()
        await gateway.peers.close()
        await gateway.budgets.close()
        with contextlib.suppress(RegistryUnavailable):
            await gateway.catalog.leave()

    app = FastAPI(
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would lead to the host that the caller gave
        **ABOUT,
        exception_handlers={
            RequestError: errors.on_request_error,
            HTTPException: errors.on_http_exception,
            Exception: errors.on_unexpected,
        },
    )
    app.state.gateway = gateway
    app.state.all_metrics = Recent(partial(health.all_metrics, gateway))
    app.state.replicas = Recent(partial(replicas.find_replicas, gateway))
    app.router.routes.extend(router.routes)  # made once: a copy for each app takes 30 ms
    publish(app)
    app.router.routes.extend(page_routes(gateway.settings))
    app.add_middleware(RequestMiddleware, gateway=gateway)
    app.add_middleware(TrustedHost, gateway=gateway)
    return app
