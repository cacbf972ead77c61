"""Adapters over REST: the admin routes, and vLLM's two paths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import PlainTextResponse

from dear_serving.adapters.revisions import Adapters, Revision, State
from dear_serving.errors import (
    AlreadyThere,
    CapacityReached,
    EngineUnavailable,
    InvalidRequest,
    SettingsError,
    StagingFailed,
    StoreUnavailable,
    UnknownModel,
    UnknownSubject,
)
from dear_serving.gateway.state import GatewayState
from dear_serving.http.access import ADMIN_PATH, VLLM_PATHS
from dear_serving.http.adapter_bodies import (
    Activation,
    NewAdapter,
    Retirement,
    Rollback,
    Sharing,
    VllmLoad,
    VllmUnload,
)
from dear_serving.http.adapter_replies import AdapterPage, AdapterReply, RevisionReply
from dear_serving.http.admin import ACTOR, After, PageLimit, require_admin
from dear_serving.http.body import BodyReader
from dear_serving.http.openapi import errors

T = TypeVar("T")

_RETRY_S = 5.0
_VLLM_WAIT_S = 120.0
_RETIRE_WAIT_S = 5.0

_INTAKE_ERRORS = (AlreadyThere, CapacityReached, StagingFailed, StoreUnavailable)

_Name = Annotated[str, Path(description="An adapter's public name, slashes included.", examples=["desk"])]

router = APIRouter(prefix=f"{ADMIN_PATH}/adapters", tags=["adapters"], dependencies=[Depends(require_admin)])
vllm_router = APIRouter(
    tags=["adapters"], dependencies=[Depends(require_admin)], default_response_class=PlainTextResponse
)


@router.post(
    "",
    status_code=201,
    responses=errors(*_INTAKE_ERRORS, UnknownSubject)
    | {202: {"model": RevisionReply, "description": "Not yet staged, or active, after `wait_s`"}},
)
async def register(
    request: Request, response: Response, body: Annotated[NewAdapter, Depends(BodyReader(NewAdapter))]
) -> RevisionReply:
    """Check an adapter, store it, and load it on every engine. 202 if that takes longer than ``wait_s``."""
    revision = await _register(_gateway(request), body)
    if revision.state is State.REGISTERED:
        response.status_code = 202
    return RevisionReply.of(revision)


@router.get("")
async def list_adapters(request: Request, limit: PageLimit, after: After = "") -> AdapterPage:
    """Adapters by name, a page at a time; ``next`` is the ``after`` of the next one."""
    found = await _call(request, lambda adapters: adapters.list(after=after, limit=limit))
    alive = await _gateway(request).lifecycle.alive()
    return AdapterPage(
        data=[AdapterReply.of(adapter, alive) for adapter in found],
        next=found[-1].name if len(found) == limit else None,
    )


@router.post("/{name:path}/activate", responses=errors(UnknownSubject, CapacityReached, StagingFailed))
async def activate(
    request: Request, name: _Name, body: Annotated[Activation, Depends(BodyReader(Activation))]
) -> RevisionReply:
    """Point a name at a revision as soon as it is staged; returns when every gateway uses it."""
    revision = await _call(request, lambda adapters: adapters.activate(name, body.revision, actor=ACTOR))
    return await _swapped(request, revision, body.wait_s)


@router.post("/{name:path}/rollback", responses=errors(UnknownSubject, CapacityReached, StagingFailed))
async def rollback(
    request: Request,
    name: _Name,
    body: Annotated[Rollback, Depends(BodyReader(Rollback, may_be_empty=True))],
) -> RevisionReply:
    """Point a name at the revision that it pointed at before; with `revision`, only if it is that one."""
    revision = await _call(request, lambda adapters: adapters.rollback(name, body.revision, actor=ACTOR))
    return await _swapped(request, revision, body.wait_s)


@router.post("/{name:path}/retire", responses=errors(UnknownSubject))
async def retire(
    request: Request,
    name: _Name,
    body: Annotated[Retirement, Depends(BodyReader(Retirement, may_be_empty=True))],
) -> AdapterReply:
    """Unload a revision, or a name with all of its revisions."""
    await _retire(_gateway(request), name, body.revision)
    return await describe(request, name)


@router.patch("/{name:path}", responses=errors(UnknownSubject))
async def share(
    request: Request, name: _Name, body: Annotated[Sharing, Depends(BodyReader(Sharing))]
) -> AdapterReply:
    """Open a name to all tenants, or only to those with a grant."""
    await _call(request, lambda adapters: adapters.share(name, body.shared, actor=ACTOR))
    await _gateway(request).lifecycle.round()
    return await describe(request, name)


@router.get("/{name:path}", responses=errors(UnknownSubject))
async def describe(request: Request, name: _Name) -> AdapterReply:
    """One adapter, each of its revisions with the replicas that hold it."""
    adapter = await _call(request, lambda adapters: adapters.get(name))
    return AdapterReply.of(adapter, await _gateway(request).lifecycle.alive())


@vllm_router.post(VLLM_PATHS[0], responses=errors(*_INTAKE_ERRORS, EngineUnavailable))
async def load_lora_adapter(
    request: Request, body: Annotated[VllmLoad, Depends(BodyReader(VllmLoad))]
) -> str:
    """As vLLM's: register and activate. ``load_inplace`` makes another revision."""
    gateway = _gateway(request)
    if not body.load_inplace and body.lora_name in gateway.catalog.models.served:
        raise InvalidRequest(
            f"The lora adapter {body.lora_name!r} has already been loaded.", param="lora_name"
        )
    new = NewAdapter(name=body.lora_name, source=body.lora_path, activate=True, wait_s=_VLLM_WAIT_S)
    revision = await _register(gateway, new)
    if revision.state is not State.ACTIVE:
        raise EngineUnavailable("the adapter is still being loaded", retry_after_s=_RETRY_S)
    return f"Success: LoRA adapter '{body.lora_name}' added successfully."


@vllm_router.post(VLLM_PATHS[1], responses=errors(UnknownModel))
async def unload_lora_adapter(
    request: Request, body: Annotated[VllmUnload, Depends(BodyReader(VllmUnload))]
) -> str:
    """As vLLM's: retire a name with all of its revisions."""
    try:
        await _retire(_gateway(request), body.lora_name)
    except UnknownSubject:
        raise UnknownModel(
            f"The lora adapter {body.lora_name!r} cannot be found.", param="lora_name"
        ) from None
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


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


async def _swapped(request: Request, revision: Revision, wait_s: float) -> RevisionReply:
    settled = await _gateway(request).lifecycle.wait_until_settled(revision, wait_s)
    return RevisionReply.of(_unless_failed(settled))


def _unless_failed(revision: Revision) -> Revision:
    if revision.state is State.FAILED:
        raise StagingFailed(f'"{revision.id}" could not be staged: {revision.reason}')
    return revision


def _gateway(request: Request) -> GatewayState:
    gateway: GatewayState = request.app.state.gateway
    return gateway


async def _call(request: Request, action: Callable[[Adapters], T]) -> T:
    """Run a blocking registry call outside the event loop."""
    return await asyncio.to_thread(action, _gateway(request).lifecycle.adapters)
