"""The mix of tenants and models, by weight."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dear_tools.exits import ToolError

_WEIGHT = re.compile(r"\d+\.?\d*|\.\d+")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller with a key of its own; None sends that of DEAR_API_KEY, where it is set."""

    name: str
    key: str | None

    def __repr__(self) -> str:
        return f"Tenant({self.name!r})"


@dataclass(frozen=True, slots=True)
class Mix:
    """Tenants and models with their weights, drawn independently of each other."""

    tenants: tuple[Tenant, ...]
    tenant_weights: tuple[float, ...]
    models: tuple[str, ...]
    model_weights: tuple[float, ...]

    def draw(self, random: random.Random) -> tuple[Tenant, str]:
        """Who sends the next request, and to which model."""
        tenant = random.choices(self.tenants, self.tenant_weights)[0]
        return tenant, random.choices(self.models, self.model_weights)[0]


def parse_weighted(text: str) -> tuple[str, float]:
    """``legal=3`` or ``legal``, which weighs 1.

    Raises:
        ToolError: no name, or no weight above 0.
    """
    name, separator, given = text.strip().partition("=")
    weight = float(given) if _WEIGHT.fullmatch(given) else 0.0 if separator else 1.0
    if not name or not 0 < weight < math.inf:
        raise ToolError(f"{text!r}: NAME or NAME=WEIGHT with a weight above 0 is needed")
    return name, weight


def parse_tenant(text: str) -> tuple[Tenant, float]:
    """``acme:ACME_KEY=2``: a name, the environment variable that holds its key, and a weight.

    Raises:
        ToolError: there is no such variable, or the form is another one.
    """
    given, weight = parse_weighted(text)
    name, separator, variable = given.partition(":")
    if not (name and separator and variable):
        raise ToolError(f"{text!r}: NAME:VARIABLE is needed, the environment variable that holds the key")
    key = os.environ.get(variable)
    if not key:
        raise ToolError(f"tenant {name!r}: the environment variable {variable} is not set")
    return Tenant(name, key), weight


def zipf(weights: Sequence[float], exponent: float) -> tuple[float, ...]:
    """The weights, the one at rank r (from 1) divided by r ** exponent; 0 leaves them as they are."""
    return tuple(weight / rank**exponent for rank, weight in enumerate(weights, start=1))
