"""The caller of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dear_serving.errors import UnknownModel
from dear_serving.gateway.budgets import Allowance
from dear_serving.gateway.catalog import CatalogSnapshot, ServedModel
from dear_serving.tenancy.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Caller:
    """The tenant of one request, with the catalog at its arrival, the headers of its reply, and when it
    arrived (time.monotonic)."""

    tenant: Tenant
    request_id: str
    models: CatalogSnapshot
    headers: dict[str, str] = field(default_factory=dict)
    arrived_s: float = field(default_factory=time.monotonic)

    def report(self, allowance: Allowance | None) -> None:
        """Add a budget's state to the reply's headers."""
        if allowance is not None:
            self.headers.update(allowance.headers())

    def visible(self) -> list[ServedModel]:
        """The models the tenant may use, the base model first."""
        return [model for model in self.models.served.values() if self._may_use(model)]

    def find(self, name: str | None) -> ServedModel:
        """The model with a public name; the server's default for None.

        Raises:
            UnknownModel: no such model, or the tenant may not use it; both give the same reply.
        """
        name = name or self.models.default
        served = self.models.served.get(name)
        if served is None or not self._may_use(served):
            raise UnknownModel(f"there is no model {name[:128]!r}", param="model")
        return served

    def _may_use(self, served: ServedModel) -> bool:
        return served.shared or served.name in self.tenant.granted
