"""``dear tenants``."""

from __future__ import annotations

from typing import Annotated

import typer

from dear_client.administration import Limits
from dear_tools.admin.ask import ask
from dear_tools.admin.show import JsonOption, show, show_all

tenants = typer.Typer(no_args_is_help=True, help="Tenants: their limits, shares and grants.")

TenantArgument = Annotated[str, typer.Argument(help="The tenant's id.")]
WeightOption = Annotated[
    float | None, typer.Option(help="Share of a saturated engine, relative to other tenants.")
]
InFlightOption = Annotated[int | None, typer.Option(help="Most requests at once; 0 takes the limit away.")]
RequestsOption = Annotated[int | None, typer.Option(help="Requests a minute; 0 takes the limit away.")]
TokensOption = Annotated[int | None, typer.Option(help="Tokens a minute; 0 takes the limit away.")]
PriorityOption = Annotated[
    int | None,
    typer.Option(min=0, max=999, help="Highest priority of its requests: 0, which is no limit, to 999."),
]
PromptTokensOption = Annotated[
    int | None, typer.Option(help="Most prompt tokens of one rerank; 0 takes the limit away.")
]

_COLUMNS = (
    "id",
    "weight",
    "requests_in_flight",
    "requests_per_minute",
    "tokens_per_minute",
    "highest_priority",
    "max_prompt_tokens",
    "granted",
)


@tenants.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """All tenants."""
    show_all(ask(lambda admin: admin.tenants()), _COLUMNS, as_json)


@tenants.command("show")
def show_tenant(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """One tenant."""
    show(ask(lambda admin: admin.tenant(tenant)), _COLUMNS, as_json)


@tenants.command("create")
def create_tenant(
    tenant: TenantArgument,
    weight: WeightOption = None,
    in_flight: InFlightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    highest_priority: PriorityOption = None,
    max_prompt_tokens: PromptTokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant."""
    limits = _limits(
        weight, in_flight, requests_per_minute, tokens_per_minute, highest_priority, max_prompt_tokens
    )
    show(ask(lambda admin: admin.create_tenant(tenant, **limits)), _COLUMNS, as_json)


@tenants.command("set")
def set_tenant(
    tenant: TenantArgument,
    weight: WeightOption = None,
    in_flight: InFlightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    highest_priority: PriorityOption = None,
    max_prompt_tokens: PromptTokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's weight and limits, those given."""
    limits = _limits(
        weight, in_flight, requests_per_minute, tokens_per_minute, highest_priority, max_prompt_tokens
    )
    show(ask(lambda admin: admin.set_tenant(tenant, **limits)), _COLUMNS, as_json)


@tenants.command("delete")
def delete_tenant(
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a tenant with its keys and grants."""
    if not yes:
        typer.confirm(f"Remove tenant {tenant} and all of its keys?", abort=True)
    ask(lambda admin: admin.delete_tenant(tenant))
    typer.echo(f"removed {tenant}")


@tenants.command("grant")
def grant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Let a tenant use an adapter that is not shared."""
    show(ask(lambda admin: admin.grant(tenant, adapter)), _COLUMNS, as_json)


@tenants.command("ungrant")
def ungrant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Take an adapter from a tenant."""
    show(ask(lambda admin: admin.ungrant(tenant, adapter)), _COLUMNS, as_json)


def _limits(
    weight: float | None,
    in_flight: int | None,
    requests: int | None,
    tokens: int | None,
    priority: int | None,
    prompt_tokens: int | None,
) -> Limits:
    """What the options given set; 0 stands for no limit."""
    limits: Limits = {}
    if weight is not None:
        limits["weight"] = weight
    if in_flight is not None:
        limits["requests_in_flight"] = in_flight or None
    if requests is not None:
        limits["requests_per_minute"] = requests or None
    if tokens is not None:
        limits["tokens_per_minute"] = tokens or None
    if priority is not None:
        limits["highest_priority"] = priority or None
    if prompt_tokens is not None:
        limits["max_prompt_tokens"] = prompt_tokens or None
    return limits
