"""Adapters over REST: the admin routes, and vLLM's own two paths on top of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from dear_serving.adapters.heartbeats import Alive
from dear_serving.adapters.revisions import Adapter, Adapters, Revision, State
from dear_serving.errors import (
    EngineUnavailable,
    InvalidRequest,
    SettingsError,
    StagingFailed,
    UnknownModel,
    UnknownSubject,
)
from dear_serving.gateway.state import GatewayState
from dear_serving.http.adapter_bodies import (
    Activation,
    NewAdapter,
    Retirement,
    Rollback,
    Sharing,
    VllmLoad,
    VllmUnload,
)
from dear_serving.http.admin import ACTOR, ADMIN_PATH, iso, page_limit, require_admin
from dear_serving.http.body import read_json, validate

Answer = TypeVar("Answer")

_MAX_BODY_BYTES = 64 * 1024
_RETRY_S = 5.0
_VLLM_WAIT_S = 120.0
_RETIRE_WAIT_S = 5.0

VLLM_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")

router = APIRouter(prefix=f"{ADMIN_PATH}/adapters", dependencies=[Depends(require_admin)])
vllm_router = APIRouter(dependencies=[Depends(require_admin)])


@router.post("")
async def register(request: Request) -> JSONResponse:
    """Check an adapter, keep it, and have the engines take it. 202 where they have not within ``wait_s``."""
    body = validate(NewAdapter, await read_json(request, _MAX_BODY_BYTES))
    revision = await _register(_gateway(request), body)
    return JSONResponse(revision_json(revision), 202 if revision.state is State.REGISTERED else 201)


@router.get("")
async def list_adapters(request: Request) -> dict[str, Any]:
    """Adapters by name, a page at a time; ``next`` is the ``after`` of the next one."""
    limit, after = page_limit(request), request.query_params.get("after", "")
    found = await _call(request, lambda adapters: adapters.list(after=after, limit=limit))
    alive = await _gateway(request).lifecycle.alive()
    return {
        "object": "list",
        "data": [adapter_json(adapter, alive) for adapter in found],
        "next": found[-1].name if len(found) == limit else None,
    }


@router.post("/{name:path}/activate")
async def activate(request: Request, name: str) -> dict[str, Any]:
    """Point a name at a revision, after it is staged; returns when every gateway goes by it."""
    body = validate(Activation, await read_json(request, _MAX_BODY_BYTES))
    revision = await _call(request, lambda adapters: adapters.activate(name, body.revision, actor=ACTOR))
    return await _swapped(request, revision, body.wait_s)


@router.post("/{name:path}/rollback")
async def rollback(request: Request, name: str) -> dict[str, Any]:
    """Point a name at the revision that it pointed at before."""
    body = validate(Rollback, await read_json(request, _MAX_BODY_BYTES, may_be_empty=True))
    revision = await _call(request, lambda adapters: adapters.rollback(name, actor=ACTOR))
    return await _swapped(request, revision, body.wait_s)


@router.post("/{name:path}/retire")
async def retire(request: Request, name: str) -> dict[str, Any]:
    """Take a revision, or a name with all of its revisions, out of service."""
    body = validate(Retirement, await read_json(request, _MAX_BODY_BYTES, may_be_empty=True))
    await _retire(_gateway(request), name, body.revision)
    return await describe(request, name)


@router.patch("/{name:path}")
async def share(request: Request, name: str) -> dict[str, Any]:
    """Open a name to every tenant, or leave it to those with a grant."""
    body = validate(Sharing, await read_json(request, _MAX_BODY_BYTES))
    await _call(request, lambda adapters: adapters.share(name, body.shared, actor=ACTOR))
    await _gateway(request).lifecycle.round()
    return await describe(request, name)


@router.get("/{name:path}")
async def describe(request: Request, name: str) -> dict[str, Any]:
    """One adapter, each of its revisions with the replicas that hold it."""
    adapter = await _call(request, lambda adapters: adapters.get(name))
    return adapter_json(adapter, await _gateway(request).lifecycle.alive())


@vllm_router.post(VLLM_PATHS[0])
async def load_lora_adapter(request: Request) -> PlainTextResponse:
    """As vLLM's: register and activate. What vLLM would reload in place is another revision here."""
    gateway = _gateway(request)
    body = validate(VllmLoad, await read_json(request, _MAX_BODY_BYTES))
    if not body.load_inplace and body.lora_name in gateway.catalog.models.served:
        raise InvalidRequest(
            f"The lora adapter {body.lora_name!r} has already been loaded.", param="lora_name"
        )
    new = NewAdapter(name=body.lora_name, source=body.lora_path, activate=True, wait_s=_VLLM_WAIT_S)
    revision = await _register(gateway, new)
    if revision.state is not State.ACTIVE:
        raise EngineUnavailable("the adapter is still being loaded", retry_after_s=_RETRY_S)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@vllm_router.post(VLLM_PATHS[1])
async def unload_lora_adapter(request: Request) -> PlainTextResponse:
    """As vLLM's: retire a name with all of its revisions."""
    gateway = _gateway(request)
    body = validate(VllmUnload, await read_json(request, _MAX_BODY_BYTES))
    try:
        await _retire(gateway, body.lora_name)
    except UnknownSubject:
        raise UnknownModel(
            f"The lora adapter {body.lora_name!r} cannot be found.", param="lora_name"
        ) from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _register(gateway: GatewayState, body: NewAdapter) -> Revision:
    if body.name == gateway.settings.model.id:
        raise InvalidRequest(f'name: "{body.name}" is the base model', param="name")
    template = body.template
    if template is None:
        served = gateway.catalog.models.served.get(body.name)
        template = "plain" if served is None else served.template
    try:
        await asyncio.to_thread(gateway.rerank.builders, template)
    except SettingsError as error:
        raise InvalidRequest(f"template: {error.message}", param="template") from None
    revision = await gateway.lifecycle.register(
        body.name,
        body.source,
        template=template,
        shared=body.shared,
        tenants=body.tenants,
        activate=body.activate,
        actor=ACTOR,
    )
    return _unless_failed(await gateway.lifecycle.wait_until_settled(revision, body.wait_s))


async def _retire(gateway: GatewayState, name: str, revision: str | None = None) -> None:
    adapters = gateway.lifecycle.adapters
    adapter = await asyncio.to_thread(lambda: adapters.retire(name, revision, actor=ACTOR))
    for one in adapter.revisions:
        if one.state is State.DRAINING:
            await gateway.lifecycle.wait_until_settled(one, _RETIRE_WAIT_S)


async def _swapped(request: Request, revision: Revision, wait_s: float) -> dict[str, Any]:
    settled = await _gateway(request).lifecycle.wait_until_settled(revision, wait_s)
    return revision_json(_unless_failed(settled))


def _unless_failed(revision: Revision) -> Revision:
    if revision.state is State.FAILED:
        raise StagingFailed(f'"{revision.id}" could not be staged: {revision.reason}')
    return revision


def adapter_json(adapter: Adapter, alive: Alive) -> dict[str, Any]:
    """An adapter with its revisions, newest first, and who holds them."""
    return {
        "object": "adapter",
        "name": adapter.name,
        "shared": adapter.shared,
        "active": adapter.active,
        "previous": adapter.previous,
        "created": iso(adapter.created_s),
        "revisions": [
            revision_json(revision)
            | {
                "replicas": {
                    replica.id: replica.holds[revision.id] or "held"
                    for replica in alive.replicas
                    if revision.id in replica.holds
                }
            }
            for revision in adapter.revisions
        ],
    }


def revision_json(revision: Revision) -> dict[str, Any]:
    """A revision; times as ISO 8601."""
    return {
        "object": "revision",
        "id": revision.id,
        "name": revision.name,
        "state": revision.state.value,
        "reason": revision.reason,
        "template": revision.template,
        "rank": revision.rank,
        "bytes": revision.size_bytes,
        "created": iso(revision.created_s),
        "changed": iso(revision.changed_s),
    }


def _gateway(request: Request) -> GatewayState:
    gateway: GatewayState = request.app.state.gateway
    return gateway


async def _call(request: Request, action: Callable[[Adapters], Answer]) -> Answer:
    """Ask the registry, off the event loop: it blocks."""
    return await asyncio.to_thread(action, _gateway(request).lifecycle.adapters)
