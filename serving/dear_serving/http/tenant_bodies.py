"""What an administrator may say of tenants and keys: bodies of the admin routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.settings import Name

TenantId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**53)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=10 * 366 * 24 * 3600, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TenantChanges(_Body):
    """What of a tenant is set; null takes a limit away, what is absent stays."""

    weight: Weight | None = None
    requests_in_flight: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Tokens | None = None


class NewTenant(TenantChanges):
    """A tenant to create."""

    id: TenantId


class NewKeyBody(_Body):
    """A key to create; without ``expires_in_s`` it works until it is revoked."""

    label: Annotated[str, Field(max_length=200)] = ""
    expires_in_s: Annotated[Seconds, Field(gt=0)] | None = None


class Rotation(_Body):
    """How long the old key goes on working beside the new one."""

    overlap_s: Seconds = 3600.0


class Grant(_Body):
    """An adapter that a tenant may use."""

    adapter: Name
