"""Tenants, keys and grants over REST, with a key of its own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from dear_serving.errors import InvalidKey, InvalidRequest, PermissionDenied, UnknownModel, UnknownSubject
from dear_serving.gateway.authenticator import bearer, matches_any
from dear_serving.gateway.state import GatewayState
from dear_serving.http.body import read_json, validate
from dear_serving.http.tenant_bodies import Grant, NewKeyBody, NewTenant, Rotation, TenantChanges
from dear_serving.registry.audit import Change
from dear_serving.settings import ADMIN_KEY_VARIABLE
from dear_serving.tenancy.tenants import DEFAULT_TENANT, IssuedKey, Key, Limits, Tenant, Tenants

Answer = TypeVar("Answer")

ADMIN_PATH = "/admin/v1"
ACTOR = "admin"

_MAX_BODY_BYTES = 64 * 1024
_MOST_LISTED = 1000


def require_admin(request: Request) -> None:
    """Let the admin key pass and nothing else.

    Raises:
        PermissionDenied: the server has no admin key, so that nobody may.
        InvalidKey: another key, or none.
    """
    digests = request.app.state.gateway.admin_digests
    if not digests:
        raise PermissionDenied(
            f"the admin routes are closed: the server was started without {ADMIN_KEY_VARIABLE}"
        )
    key = bearer(request.headers.get("authorization"))
    if key is None or not matches_any(key, digests):
        raise InvalidKey("the admin key is needed: Authorization: Bearer KEY")


router = APIRouter(prefix=ADMIN_PATH, dependencies=[Depends(require_admin)])


@router.post("/tenants")
async def create_tenant(request: Request) -> JSONResponse:
    """Create a tenant."""
    body = validate(NewTenant, await read_json(request, _MAX_BODY_BYTES))
    if body.id == DEFAULT_TENANT:
        raise InvalidRequest(f'id: "{DEFAULT_TENANT}" is the tenant of callers without a key', param="id")
    limits = Limits(body.requests_in_flight, body.requests_per_minute, body.tokens_per_minute)
    tenant = await _call(
        request,
        lambda tenants: tenants.create(body.id, weight=body.weight or 1.0, limits=limits, actor=ACTOR),
    )
    return JSONResponse(tenant_json(tenant), 201)


@router.get("/tenants")
async def list_tenants(request: Request) -> dict[str, Any]:
    """Tenants by id, a page at a time; ``next`` is the ``after`` of the next one."""
    limit, after = page_limit(request), request.query_params.get("after", "")
    found = await _call(request, lambda tenants: tenants.list(after=after, limit=limit))
    return {
        "object": "list",
        "data": [tenant_json(tenant) for tenant in found],
        "next": found[-1].id if len(found) == limit else None,
    }


@router.get("/tenants/{tenant}")
async def get_tenant(request: Request, tenant: str) -> dict[str, Any]:
    """One tenant."""
    return tenant_json(await _call(request, lambda tenants: tenants.get(tenant)))


@router.patch("/tenants/{tenant}")
async def change_tenant(request: Request, tenant: str) -> dict[str, Any]:
    """Set weight and limits, those given."""
    body = validate(TenantChanges, await read_json(request, _MAX_BODY_BYTES))
    changes = body.model_dump(exclude_unset=True)
    if "weight" in changes and changes["weight"] is None:
        raise InvalidRequest("weight: a number above 0, not null", param="weight")
    changed = await _call(request, lambda tenants: tenants.change(tenant, changes, actor=ACTOR))
    return tenant_json(changed)


@router.delete("/tenants/{tenant}")
async def delete_tenant(request: Request, tenant: str) -> dict[str, Any]:
    """Remove a tenant with its keys and grants."""
    await _call(request, lambda tenants: tenants.delete(tenant, actor=ACTOR))
    return {"object": "tenant", "id": tenant, "deleted": True}


@router.post("/tenants/{tenant}/grants")
async def add_grant(request: Request, tenant: str) -> dict[str, Any]:
    """Let a tenant use an adapter that is not shared."""
    body = validate(Grant, await read_json(request, _MAX_BODY_BYTES))
    gateway: GatewayState = request.app.state.gateway
    try:
        await asyncio.to_thread(gateway.lifecycle.adapters.get, body.adapter)
    except UnknownSubject:
        raise UnknownModel(f"there is no adapter {body.adapter!r}", param="adapter") from None
    granted = await _call(request, lambda tenants: tenants.grant(tenant, body.adapter, actor=ACTOR))
    return tenant_json(granted)


@router.delete("/tenants/{tenant}/grants/{adapter:path}")
async def remove_grant(request: Request, tenant: str, adapter: str) -> dict[str, Any]:
    """Take an adapter from a tenant."""
    left = await _call(request, lambda tenants: tenants.revoke_grant(tenant, adapter, actor=ACTOR))
    return tenant_json(left)


@router.post("/tenants/{tenant}/keys")
async def create_key(request: Request, tenant: str) -> JSONResponse:
    """Create a key; its text is in this reply and nowhere else."""
    body = validate(NewKeyBody, await read_json(request, _MAX_BODY_BYTES))
    expires_s = None if body.expires_in_s is None else time.time() + body.expires_in_s
    issued = await _call(
        request,
        lambda tenants: tenants.create_key(tenant, label=body.label, expires_s=expires_s, actor=ACTOR),
    )
    return _issued(issued)


@router.get("/tenants/{tenant}/keys")
async def list_keys(request: Request, tenant: str) -> dict[str, Any]:
    """A tenant's keys without their texts, oldest first."""
    keys = await _call(request, lambda tenants: tenants.keys(tenant))
    return {"object": "list", "data": [key_json(key) for key in keys]}


@router.post("/keys/{key}/rotate")
async def rotate_key(request: Request, key: str) -> JSONResponse:
    """A new key in place of one that goes on working for a while."""
    body = validate(Rotation, await read_json(request, _MAX_BODY_BYTES))
    issued = await _call(
        request, lambda tenants: tenants.rotate_key(key, overlap_s=body.overlap_s, actor=ACTOR)
    )
    return _issued(issued)


@router.delete("/keys/{key}")
async def revoke_key(request: Request, key: str) -> dict[str, Any]:
    """Shut a key out. Gateways that let it in lately notice within a second or two."""
    return key_json(await _call(request, lambda tenants: tenants.revoke_key(key, actor=ACTOR)))


@router.get("/audit")
async def audit(request: Request) -> dict[str, Any]:
    """Who changed what, newest first."""
    limit = page_limit(request)
    changes = await _call(request, lambda tenants: tenants.changes(limit=limit))
    return {"object": "list", "data": [change_json(change) for change in changes]}


def tenant_json(tenant: Tenant) -> dict[str, Any]:
    """A tenant without its cache salt, which is nobody's business."""
    return {
        "object": "tenant",
        "id": tenant.id,
        "weight": tenant.weight,
        **asdict(tenant.limits),
        "granted": sorted(tenant.granted),
    }


def key_json(key: Key) -> dict[str, Any]:
    """A key without its text; times as ISO 8601."""
    return {
        "object": "key",
        "id": key.id,
        "tenant": key.tenant,
        "label": key.label,
        "state": "revoked" if key.revoked_s else "valid" if key.is_valid(time.time()) else "expired",
        "created": iso(key.created_s),
        "expires": iso(key.expires_s),
        "revoked": iso(key.revoked_s),
    }


def change_json(change: Change) -> dict[str, Any]:
    """An entry of the audit trail."""
    return {
        "at": iso(change.at_s),
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "detail": dict(change.detail),
    }


def _issued(issued: IssuedKey) -> JSONResponse:
    return JSONResponse(key_json(issued.key) | {"key": issued.text}, 201, {"Cache-Control": "no-store"})


def iso(seconds: float | None) -> str | None:
    """A time of the registry's as ISO 8601, UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def page_limit(request: Request) -> int:
    """How many a page may hold, from the query; raises InvalidRequest."""
    given = request.query_params.get("limit", "100")
    # Few digits: a number that is cut to be judged and used whole would be another one.
    if not re.fullmatch("[0-9]{1,4}", given) or not 1 <= int(given) <= _MOST_LISTED:
        raise InvalidRequest(f"limit: a number from 1 to {_MOST_LISTED}", param="limit")
    return int(given)


async def _call(request: Request, action: Callable[[Tenants], Answer]) -> Answer:
    """Ask the registry, off the event loop: it blocks."""
    return await asyncio.to_thread(action, request.app.state.gateway.tenants)
