"""Bodies of the admin routes for tenants and keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from dear_tools.names import Name, TenantId

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**53)]
Priority = Annotated[int, Field(ge=0, le=999)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=10 * 366 * 24 * 3600, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TenantChanges(_Body):
    """Changes of a tenant; null removes a limit, an absent field stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"weight": 3.5, "requests_per_minute": None}]})

    weight: Weight | SkipJsonSchema[None] = Field(None, description="Its share of saturated engines.")
    requests_in_flight: Count | None = Field(None, description="Most open requests.")
    requests_per_minute: Count | None = None
    tokens_per_minute: Tokens | None = Field(None, description="Predicted cost of the requests.")
    highest_priority: Priority | None = Field(
        None, description="0 is highest. Requests with a lower number get this one."
    )
    max_prompt_tokens: Tokens | None = Field(
        None, description="Of all windows of one rerank; strategy auto fits itself to it."
    )


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
