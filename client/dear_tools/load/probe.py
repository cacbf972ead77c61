"""Requests before the load: which keys the server accepts, and which models it has."""

from __future__ import annotations

from collections.abc import Sequence

from dear_client import Client, InvalidKey, Retry, Timeout
from dear_tools.exits import ToolError
from dear_tools.load.mix import Mix, Tenant, zipf

ALL = "all"
"""In place of a model's name: every model that all tenants may use, in the server's order."""

_MOST_S = 30.0


def probe(
    url: str | None,
    tenants: Sequence[tuple[Tenant, float]],
    models: Sequence[tuple[str, float]],
    exponent: float,
    answer_s: float,
) -> tuple[str, Mix]:
    """The server's URL, and the mix. Each tenant lists its models, which also checks its key.

    Args:
        tenants: with their weights, as are ``models``; none of these is the server's default.
        exponent: of Zipf's law, over the models in the order given.
        answer_s: how long the server has to answer, seconds.

    Raises:
        ClientError: it does not, or is another kind of server.
        ToolError: a tenant's key is refused, or a tenant may not use a model.
    """
    answer_s = min(_MOST_S, answer_s)
    timeout = Timeout(answer_s, answer_s, answer_s)
    shared: list[str] | None = None
    for tenant, _ in tenants:
        with Client(url, tenant.key, retry=Retry(attempts=1), timeout=timeout) as client:
            base_url = client.base_url
            try:
                names = [model.id for model in client.models()]
            except InvalidKey as error:
                whose = f"tenant {tenant.name!r}: " if len(tenants) > 1 else ""
                raise ToolError(f"{whose}{error.message}") from None
        for name, _ in models:
            if name not in (*names, ALL):
                whose = f"tenant {tenant.name!r} may use" if len(tenants) > 1 else f"{base_url} has"
                raise ToolError(f"{whose} no model {name!r}; there is: {', '.join(names) or 'none'}")
        shared = [name for name in names if shared is None or name in shared]
    if any(name == ALL for name, _ in models):
        if not shared:
            raise ToolError(f"{base_url} has no model that all may use")
        models = [(name, 1.0) for name in shared]
    models = models or [("", 1.0)]
    mix = Mix(
        tuple(tenant for tenant, _ in tenants),
        tuple(weight for _, weight in tenants),
        tuple(name for name, _ in models),
        zipf([weight for _, weight in models], exponent),
    )
    return base_url, mix
