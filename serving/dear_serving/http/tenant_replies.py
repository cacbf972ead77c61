"""Replies of the admin routes for tenants, keys and the audit trail."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import Field

from dear_serving.http.reply import Reply, Time
from dear_serving.registry.audit import Change
from dear_serving.tenancy.tenants import Key, Tenant


class TenantReply(Reply):
    """A tenant; null is no limit."""

    object: Literal["tenant"] = "tenant"
    id: str
    weight: float
    requests_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    highest_priority: int | None
    max_prompt_tokens: int | None
    granted: list[str] = Field(description="Adapters that it may use besides the shared ones.")

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """A tenant without its cache salt."""
        granted = sorted(tenant.granted)
        return cls(id=tenant.id, weight=tenant.weight, **asdict(tenant.limits), granted=granted)


class TenantPage(Reply):
    """Tenants by id; ``next`` is the ``after`` of the next page."""

    object: Literal["list"] = "list"
    data: list[TenantReply]
    next: str | None


class DeletedTenant(Reply):
    """A tenant that was removed."""

    object: Literal["tenant"] = "tenant"
    id: str
    deleted: Literal[True] = True


class KeyReply(Reply):
    """A key without its text."""

    object: Literal["key"] = "key"
    id: str
    tenant: str
    label: str
    state: Literal["valid", "expired", "revoked"]
    created: Time
    expires: Time | None
    revoked: Time | None

    @classmethod
    def of(cls, key: Key, /, **more: str) -> Self:
        """A key as it is now; ``more`` are the fields of a subclass."""
        return cls(
            id=key.id,
            tenant=key.tenant,
            label=key.label,
            state="revoked" if key.revoked_s else "valid" if key.is_valid(time.time()) else "expired",
            created=key.created_s,
            expires=key.expires_s,
            revoked=key.revoked_s,
            **more,
        )


class IssuedKeyReply(KeyReply):
    """A key just made."""

    key: str = Field(description="The key's text; only this reply has it.")


class KeyList(Reply):
    """A tenant's keys, oldest first."""

    object: Literal["list"] = "list"
    data: list[KeyReply]


class ChangeReply(Reply):
    """An entry of the audit trail."""

    at: Time
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, change: Change) -> Self:
        """An entry as it was written."""
        return cls(
            at=change.at_s,
            actor=change.actor,
            action=change.action,
            subject=change.subject,
            detail=dict(change.detail),
        )


class ChangeList(Reply):
    """Who changed what, newest first."""

    object: Literal["list"] = "list"
    data: list[ChangeReply]
