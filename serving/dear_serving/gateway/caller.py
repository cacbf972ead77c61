"""Who a request is from."""

from __future__ import annotations

from dataclasses import dataclass, field

from dear_serving.errors import UnknownModel
from dear_serving.gateway.budgets import Allowance
from dear_serving.gateway.catalog import CatalogSnapshot, ServedModel
from dear_serving.tenancy.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Caller:
    """A tenant with one request: the models as they were when it came, and headers of its reply."""

    tenant: Tenant
    request_id: str
    models: CatalogSnapshot
    headers: dict[str, str] = field(default_factory=dict)

    def report(self, allowance: Allowance | None) -> None:
        """Say in the reply's headers what is left of a budget."""
        if allowance is not None:
            self.headers.update(allowance.headers())

    def visible(self) -> list[ServedModel]:
        """What the tenant may use, the base model first."""
        return [one for one in self.models.served.values() if self._may_use(one)]

    def find(self, name: str | None) -> ServedModel:
        """The model of a public name; the server's default for None.

        Raises:
            UnknownModel: there is none, or none that the tenant may use: they look alike.
        """
        name = name or self.models.default
        served = self.models.served.get(name)
        if served is None or not self._may_use(served):
            raise UnknownModel(f"there is no model {name[:128]!r}", param="model")
        return served

    def _may_use(self, served: ServedModel) -> bool:
        return served.shared or served.name in self.tenant.granted
