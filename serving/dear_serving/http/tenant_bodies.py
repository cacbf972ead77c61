"""Bodies and replies of the admin routes for tenants and keys; and seed files."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from dear_serving.http.reply import Reply, Time
from dear_serving.registry.audit import Change
from dear_serving.settings import Name
from dear_serving.tenancy.tenants import Key, Tenant

TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**53)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=10 * 366 * 24 * 3600, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TenantChanges(_Body):
    """What of a tenant is set; null takes a limit away, what is absent stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"weight": 3.5, "requests_per_minute": None}]})

    weight: Weight | SkipJsonSchema[None] = Field(None, description="Its share of saturated engines.")
    requests_in_flight: Count | None = Field(None, description="Most requests at once, in each gateway.")
    requests_per_minute: Count | None = None
    tokens_per_minute: Tokens | None = Field(None, description="Predicted prompt tokens of all windows.")


class NewTenant(TenantChanges):
    """A tenant to create."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "acme", "weight": 2, "requests_per_minute": 60}]}
    )

    id: TenantId
    weight: Weight | None = Field(None, description="Its share of saturated engines; null: 1.")


class NewKeyBody(_Body):
    """A key to create; without ``expires_in_s`` it works until it is revoked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"label": "laptop", "expires_in_s": 86400}]})

    label: Annotated[str, Field(max_length=200)] = ""
    expires_in_s: Annotated[Seconds, Field(gt=0)] | None = None


class Rotation(_Body):
    """How long the old key goes on working beside the new one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_s": 600}]})

    overlap_s: Seconds = 3600.0


class Grant(_Body):
    """An adapter that a tenant may use."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"adapter": "medical"}]})

    adapter: Name


class TenantReply(Reply):
    """A tenant. A limit that is null does not bind."""

    object: Literal["tenant"] = "tenant"
    id: str
    weight: float
    requests_in_flight: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    granted: list[str] = Field(description="Adapters beside the shared ones that it may use.")

    @classmethod
    def of(cls, tenant: Tenant) -> Self:
        """A tenant without its cache salt, which is nobody's business."""
        granted = sorted(tenant.granted)
        return cls(id=tenant.id, weight=tenant.weight, **asdict(tenant.limits), granted=granted)


class TenantPage(Reply):
    """Tenants by id; ``next`` is the ``after`` of the next page."""

    object: Literal["list"] = "list"
    data: list[TenantReply]
    next: str | None


class DeletedTenant(Reply):
    """A tenant that is gone."""

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

    key: str = Field(description="The key's text: in this reply and nowhere else.")


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


class SeedTenant(NewTenant):
    """A tenant in a seed file. Limits that are not given do not bind; ``grants`` are all it has."""

    weight: Weight = 1.0
    grants: tuple[Name, ...] = ()


class SeedAdapter(_Body):
    """An adapter in a seed file: what is in ``source`` is what its name points at."""

    name: Name
    source: Annotated[str, Field(min_length=1, max_length=1000)]
    template: Annotated[str, Field(max_length=128)] | None = None
    shared: bool = True


class Seed(_Body):
    """A seed file. Tenants and adapters that it does not name stay as they are."""

    adapters: tuple[SeedAdapter, ...] = ()
    tenants: tuple[SeedTenant, ...] = ()
