"""The file of ``dear apply``, checked as strictly as the admin routes check their bodies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dear_tools.exits import ToolError
from dear_tools.names import Name, TemplateName, TenantId
from dear_tools.plain_yaml import load_yaml

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Tokens = Annotated[int, Field(ge=1, le=2**53)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WantedTenant(_Entry):
    """A tenant. Limits that are not given do not bind; ``grants`` are all it has."""

    id: TenantId
    weight: Weight = 1.0
    requests_in_flight: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Tokens | None = None
    highest_priority: Annotated[int, Field(ge=0, le=999)] | None = None
    max_prompt_tokens: Tokens | None = None
    grants: tuple[Name, ...] = ()


class WantedAdapter(_Entry):
    """An adapter: its name serves what is in ``source``."""

    name: Name
    source: Annotated[str, Field(min_length=1, max_length=1000)]
    template: TemplateName | None = None
    shared: bool = True


class ApplyFile(_Entry):
    """The whole file. Tenants and adapters that it does not name stay as they are."""

    adapters: tuple[WantedAdapter, ...] = ()
    tenants: tuple[WantedTenant, ...] = ()


def read_apply_file(file: Path) -> ApplyFile:
    """Read and check a file.

    Raises:
        ToolError: no such file, no YAML, or something wrong in it; one sentence that names it.
    """
    try:
        data = load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ToolError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        # Through JSON, since lists of YAML are tuples only to that.
        wanted = ApplyFile.model_validate_json(json.dumps(data if data is not None else {}, default=str))
    except ValidationError as error:
        raise ToolError(f"{file}: {_described(error)}") from None
    named = [f'tenant "{tenant.id}"' for tenant in wanted.tenants]
    named += [f'adapter "{adapter.name}"' for adapter in wanted.adapters]
    for one in named:
        if named.count(one) > 1:
            raise ToolError(f"{file}: {one} is named twice")
    return wanted


def _described(error: ValidationError) -> str:
    """All that is wrong, as one line: ``tenants.0.id: String should ...; ...``."""
    parts = []
    for one in error.errors(include_url=False, include_context=False):
        where = ".".join(map(str, one["loc"]))
        message = "unknown setting" if one["type"] == "extra_forbidden" else one["msg"]
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)
