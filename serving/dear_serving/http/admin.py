"""Tenants, keys, grants and the audit trail over REST, with the admin key."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from dear_serving.errors import (
    AlreadyThere,
    InvalidKey,
    InvalidRequest,
    PermissionDenied,
    UnknownModel,
    UnknownSubject,
)
from dear_serving.gateway.state import GatewayState
from dear_serving.http.access import ADMIN_PATH
from dear_serving.http.body import BodyReader
from dear_serving.http.openapi import errors
from dear_serving.http.tenant_bodies import Grant, NewKeyBody, NewTenant, Rotation, TenantChanges
from dear_serving.http.tenant_replies import (
    ChangeList,
    ChangeReply,
    DeletedTenant,
    IssuedKeyReply,
    KeyList,
    KeyReply,
    TenantPage,
    TenantReply,
)
from dear_serving.settings import ADMIN_KEY_VARIABLE
from dear_serving.tenancy.tenants import DEFAULT_TENANT, IssuedKey, Limits, Tenants

T = TypeVar("T")

ACTOR = "admin"

_MOST_LISTED = 1000


def require_admin(request: Request) -> None:
    """Refuse every request without the admin key.

    Raises:
        PermissionDenied: the server has no admin key, so that nobody may.
        InvalidKey: another key, or none.
    """
    gateway: GatewayState = request.app.state.gateway
    if not gateway.admin_digests:
        raise PermissionDenied(
            f"the admin routes are closed: the server was started without {ADMIN_KEY_VARIABLE}"
        )
    if not gateway.is_admin(request.headers.get("authorization")):
        raise InvalidKey("the admin key is needed: Authorization: Bearer KEY")


def page_limit(
    limit: Annotated[
        str,
        Query(
            description="Most entries in the reply.",
            json_schema_extra={"type": "integer", "minimum": 1, "maximum": _MOST_LISTED},
        ),
    ] = "100",
) -> int:
    """How many a page may hold, from the query.

    Raises:
        InvalidRequest: no whole number, or one out of range.
    """
    # Few digits: a number that is cut to be judged and used whole would be another one.
    if not re.fullmatch("[0-9]{1,4}", limit) or not 1 <= int(limit) <= _MOST_LISTED:
        raise InvalidRequest(f"limit: a number from 1 to {_MOST_LISTED}", param="limit")
    return int(limit)


PageLimit = Annotated[int, Depends(page_limit)]
After = Annotated[str, Query(description="Only entries after this one; the page before names it in next.")]
_Tenant = Annotated[str, Path(description="A tenant's id.", examples=["acme"])]
_Key = Annotated[str, Path(description="A key's id, the part of its text between the underscores.")]

router = APIRouter(prefix=ADMIN_PATH, tags=["tenants"], dependencies=[Depends(require_admin)])


@router.post("/tenants", status_code=201, responses=errors(AlreadyThere))
async def create_tenant(
    request: Request, body: Annotated[NewTenant, Depends(BodyReader(NewTenant))]
) -> TenantReply:
    """Create a tenant."""
    if body.id == DEFAULT_TENANT:
        raise InvalidRequest(f'id: "{DEFAULT_TENANT}" is the tenant of callers without a key', param="id")
    limits = Limits(
        body.requests_in_flight,
        body.requests_per_minute,
        body.tokens_per_minute,
        body.highest_priority,
        body.max_prompt_tokens,
    )
    tenant = await _call(
        request,
        lambda tenants: tenants.create(body.id, weight=body.weight or 1.0, limits=limits, actor=ACTOR),
    )
    return TenantReply.of(tenant)


@router.get("/tenants")
async def list_tenants(request: Request, limit: PageLimit, after: After = "") -> TenantPage:
    """Tenants by id, a page at a time; ``next`` is the ``after`` of the next one."""
    found = await _call(request, lambda tenants: tenants.list(after=after, limit=limit))
    return TenantPage(
        data=[TenantReply.of(tenant) for tenant in found], next=found[-1].id if len(found) == limit else None
    )


@router.get("/tenants/{tenant}", responses=errors(UnknownSubject))
async def get_tenant(request: Request, tenant: _Tenant) -> TenantReply:
    """One tenant."""
    return TenantReply.of(await _call(request, lambda tenants: tenants.get(tenant)))


@router.patch("/tenants/{tenant}", responses=errors(UnknownSubject))
async def change_tenant(
    request: Request, tenant: _Tenant, body: Annotated[TenantChanges, Depends(BodyReader(TenantChanges))]
) -> TenantReply:
    """Change weight and limits; absent fields stay."""
    changes = body.model_dump(exclude_unset=True)
    if "weight" in changes and changes["weight"] is None:
        raise InvalidRequest("weight: a number above 0, not null", param="weight")
    return TenantReply.of(await _call(request, lambda tenants: tenants.change(tenant, changes, actor=ACTOR)))


@router.delete("/tenants/{tenant}", responses=errors(UnknownSubject))
async def delete_tenant(request: Request, tenant: _Tenant) -> DeletedTenant:
    """Remove a tenant with its keys and grants."""
    await _call(request, lambda tenants: tenants.delete(tenant, actor=ACTOR))
    return DeletedTenant(id=tenant)


@router.post("/tenants/{tenant}/grants", responses=errors(UnknownModel, UnknownSubject))
async def add_grant(
    request: Request, tenant: _Tenant, body: Annotated[Grant, Depends(BodyReader(Grant))]
) -> TenantReply:
    """Let a tenant use an adapter that is not shared."""
    gateway: GatewayState = request.app.state.gateway
    try:
        await asyncio.to_thread(gateway.lifecycle.adapters.get, body.adapter)
    except UnknownSubject:
        raise UnknownModel(f"there is no adapter {body.adapter!r}", param="adapter") from None
    return TenantReply.of(
        await _call(request, lambda tenants: tenants.grant(tenant, body.adapter, actor=ACTOR))
    )


@router.delete("/tenants/{tenant}/grants/{adapter:path}", responses=errors(UnknownSubject))
async def remove_grant(
    request: Request, tenant: _Tenant, adapter: Annotated[str, Path(examples=["medical"])]
) -> TenantReply:
    """Remove a tenant's grant of an adapter."""
    return TenantReply.of(
        await _call(request, lambda tenants: tenants.revoke_grant(tenant, adapter, actor=ACTOR))
    )


@router.post("/tenants/{tenant}/keys", status_code=201, responses=errors(UnknownSubject))
async def create_key(
    request: Request,
    response: Response,
    tenant: _Tenant,
    body: Annotated[NewKeyBody, Depends(BodyReader(NewKeyBody))],
) -> IssuedKeyReply:
    """Create a key. Only this reply has its text."""
    expires_s = None if body.expires_in_s is None else time.time() + body.expires_in_s
    issued = await _call(
        request,
        lambda tenants: tenants.create_key(tenant, label=body.label, expires_s=expires_s, actor=ACTOR),
    )
    return _issued(issued, response)


@router.get("/tenants/{tenant}/keys", responses=errors(UnknownSubject))
async def list_keys(request: Request, tenant: _Tenant) -> KeyList:
    """A tenant's keys without their texts, oldest first."""
    keys = await _call(request, lambda tenants: tenants.keys(tenant))
    return KeyList(data=[KeyReply.of(key) for key in keys])


@router.post("/keys/{key}/rotate", status_code=201, responses=errors(UnknownSubject))
async def rotate_key(
    request: Request, response: Response, key: _Key, body: Annotated[Rotation, Depends(BodyReader(Rotation))]
) -> IssuedKeyReply:
    """Replace a key by a new one; the old one works for ``overlap_s`` longer."""
    issued = await _call(
        request, lambda tenants: tenants.rotate_key(key, overlap_s=body.overlap_s, actor=ACTOR)
    )
    return _issued(issued, response)


@router.delete("/keys/{key}", responses=errors(UnknownSubject))
async def revoke_key(request: Request, key: _Key) -> KeyReply:
    """Revoke a key. Gateways refuse it within two seconds."""
    return KeyReply.of(await _call(request, lambda tenants: tenants.revoke_key(key, actor=ACTOR)))


@router.get("/audit")
async def audit(request: Request, limit: PageLimit) -> ChangeList:
    """Who changed what, newest first."""
    changes = await _call(request, lambda tenants: tenants.changes(limit=limit))
    return ChangeList(data=[ChangeReply.of(change) for change in changes])


def _issued(issued: IssuedKey, response: Response) -> IssuedKeyReply:
    response.headers["Cache-Control"] = "no-store"
    return IssuedKeyReply.of(issued.key, key=issued.text)


async def _call(request: Request, action: Callable[[Tenants], T]) -> T:
    """Run a blocking registry call outside the event loop."""
    return await asyncio.to_thread(action, request.app.state.gateway.tenants)
