"""Base of the admin routes' replies."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema


class Reply(BaseModel):
    """A reply built from its schema; fields with a default are always present."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


Time = Annotated[
    float,
    PlainSerializer(_iso, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Seconds since the epoch, sent as ISO 8601 in UTC."""
