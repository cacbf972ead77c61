"""A running server's admin routes from a shell: ``dear adapters``, ``tenants``, ``keys`` and others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from dear_client import Adapter, Client, Key, Tenant, UnknownSubject
from dear_client.administration import Limits
from dear_client.client import Admin
from dear_serving.errors import SettingsError
from dear_serving.http.tenant_bodies import Seed, SeedAdapter, SeedTenant
from dear_serving.settings import ADMIN_KEY_VARIABLE, describe

Answer = TypeVar("Answer")

_MOST_CHANGES = 1000

adapters = typer.Typer(no_args_is_help=True, help="Adapters: their revisions, and which one serves.")
tenants = typer.Typer(no_args_is_help=True, help="Tenants: their limits, shares and grants.")
keys = typer.Typer(no_args_is_help=True, help="API keys of tenants.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON.")]
TenantArgument = Annotated[str, typer.Argument(help="The tenant's id.")]
WeightOption = Annotated[float | None, typer.Option(help="Share of a saturated engine, beside the others'.")]
InFlightOption = Annotated[int | None, typer.Option(help="Most requests at once; 0 takes the limit away.")]
RequestsOption = Annotated[int | None, typer.Option(help="Requests a minute; 0 takes the limit away.")]
TokensOption = Annotated[int | None, typer.Option(help="Tokens a minute; 0 takes the limit away.")]

AdapterArgument = Annotated[str, typer.Argument(help="The adapter's public name.")]

_REVISION_COLUMNS = ("id", "state", "template", "changed", "reason")
# What one copies from a table stays in one piece.
_WHOLE = {"id", "name", "active", "previous", "subject"}
_TENANT_COLUMNS = (
    "id",
    "weight",
    "requests_in_flight",
    "requests_per_minute",
    "tokens_per_minute",
    "granted",
)
_KEY_COLUMNS = ("id", "label", "state", "created", "expires", "revoked")


@adapters.command("list")
def list_adapters(as_json: JsonOption = False) -> None:
    """All adapters."""
    found = _ask(lambda admin: admin.adapters())
    if as_json:
        _show_all(found, (), as_json)
        return
    rows = [
        {
            "name": one.name,
            "active": one.active,
            "previous": one.previous,
            "for": "all tenants" if one.shared else "those with a grant",
            "states": [revision.state for revision in one.revisions],
        }
        for one in found
    ]
    _table(rows, ("name", "active", "previous", "for", "states"))


@adapters.command("show")
def show_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """An adapter's revisions, newest first, and the engine replicas that hold them."""
    _show_adapter(_ask(lambda admin: admin.adapter(adapter)), as_json)


@adapters.command("register")
def register_adapter(
    adapter: AdapterArgument,
    source: Annotated[
        str, typer.Argument(help="Folder in the server's adapters.root, or URL under adapters.sources.")
    ],
    activate: Annotated[
        bool, typer.Option("--activate", help="Let it serve the name as soon as it is staged.")
    ] = False,
    template: Annotated[str | None, typer.Option(help="Prompt template it was trained with.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="For this tenant alone; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an adapter, keep it as a revision, and stage it on every engine."""
    revision = _ask(
        lambda admin: admin.register_adapter(
            adapter, source, activate=activate, template=template, tenants=tenant or ()
        )
    )
    _show(revision, _REVISION_COLUMNS, as_json)
    if not as_json and revision.state == "staged":
        typer.echo(f"serve it with: dear adapters activate {adapter} {revision.id.partition('@')[2]}")


@adapters.command("activate")
def activate_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str, typer.Argument(help="The revision's id, or the beginning of its digest.")],
    as_json: JsonOption = False,
) -> None:
    """Let a name stand for a revision. Requests that go on are answered by the one they began with."""
    _show(_ask(lambda admin: admin.activate_adapter(adapter, revision)), _REVISION_COLUMNS, as_json)


@adapters.command("rollback")
def rollback_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """Let a name stand for the revision before."""
    _show(_ask(lambda admin: admin.rollback_adapter(adapter)), _REVISION_COLUMNS, as_json)


@adapters.command("retire")
def retire_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str | None, typer.Argument(help="One revision; else the name with all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a revision, or a name with all of its revisions, out of service."""
    _show_adapter(_ask(lambda admin: admin.retire_adapter(adapter, revision)), as_json)


@adapters.command("share")
def share_adapter(
    adapter: AdapterArgument,
    private: Annotated[bool, typer.Option("--private", help="Leave it to the tenants with a grant.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open an adapter to every tenant."""
    _show_adapter(_ask(lambda admin: admin.share_adapter(adapter, not private)), as_json)


@tenants.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """All tenants."""
    _show_all(_ask(lambda admin: admin.tenants()), _TENANT_COLUMNS, as_json)


@tenants.command("show")
def show_tenant(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """One tenant."""
    _show(_ask(lambda admin: admin.tenant(tenant)), _TENANT_COLUMNS, as_json)


@tenants.command("create")
def create_tenant(
    tenant: TenantArgument,
    weight: WeightOption = None,
    in_flight: InFlightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a tenant."""
    limits = _limits(weight, in_flight, requests_per_minute, tokens_per_minute)
    _show(_ask(lambda admin: admin.create_tenant(tenant, **limits)), _TENANT_COLUMNS, as_json)


@tenants.command("set")
def set_tenant(
    tenant: TenantArgument,
    weight: WeightOption = None,
    in_flight: InFlightOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a tenant's weight and limits, those given."""
    limits = _limits(weight, in_flight, requests_per_minute, tokens_per_minute)
    _show(_ask(lambda admin: admin.set_tenant(tenant, **limits)), _TENANT_COLUMNS, as_json)


@tenants.command("delete")
def delete_tenant(
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a tenant with its keys and grants."""
    if not yes:
        typer.confirm(f"Remove tenant {tenant} and all of its keys?", abort=True)
    _ask(lambda admin: admin.delete_tenant(tenant))
    typer.echo(f"removed {tenant}")


@tenants.command("grant")
def grant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Let a tenant use an adapter that is not shared."""
    _show(_ask(lambda admin: admin.grant(tenant, adapter)), _TENANT_COLUMNS, as_json)


@tenants.command("ungrant")
def ungrant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Take an adapter from a tenant."""
    _show(_ask(lambda admin: admin.ungrant(tenant, adapter)), _TENANT_COLUMNS, as_json)


@keys.command("list")
def list_keys(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """A tenant's keys."""
    _show_all(_ask(lambda admin: admin.keys(tenant)), _KEY_COLUMNS, as_json)


@keys.command("create")
def create_key(
    tenant: TenantArgument,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds it works for; else for good.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once."""
    _show_key(_ask(lambda admin: admin.create_key(tenant, label, expires_in_s)), as_json)


@keys.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    overlap_s: Annotated[float, typer.Option(help="Seconds for which the old key goes on working.")] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """A new key in place of one. It is shown once."""
    _show_key(_ask(lambda admin: admin.rotate_key(key, overlap_s)), as_json)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id.")], as_json: JsonOption = False
) -> None:
    """Shut a key out, for good."""
    _show(_ask(lambda admin: admin.revoke_key(key)), _KEY_COLUMNS, as_json)


def audit(
    limit: Annotated[int, typer.Option(min=1, max=_MOST_CHANGES, help="How many changes.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Who changed what, newest first."""
    columns = ("at", "actor", "action", "subject", "detail")
    _show_all(_ask(lambda admin: admin.audit(limit)), columns, as_json)


def apply(
    file: Annotated[Path, typer.Argument(help="YAML file of adapters and tenants.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
) -> None:
    """Make adapters, tenants, their limits and grants what a file says. A second time nothing changes.

    The file is checked before anything is changed. What it does not name stays as it is.
    """
    seed = read_seed(file)
    with _server() as server:
        said = [_apply_adapter(server.admin, adapter, dry_run) for adapter in seed.adapters]
        for tenant in seed.tenants:
            for words, do in _steps(server.admin, tenant):
                if not dry_run:
                    do()
                said.append(words)
    for words in filter(None, said):
        typer.echo(f"would {words}" if dry_run else words)
    if not any(said):
        typer.echo("nothing to change")


def read_seed(file: Path) -> Seed:
    """A seed file.

    Raises:
        SettingsError: no such file, no YAML, or something wrong in it; one sentence that names it.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        # Through JSON, since lists of YAML are tuples only to that.
        seed = Seed.model_validate_json(json.dumps(data if data is not None else {}, default=str))
    except ValidationError as error:
        raise SettingsError(f"{file}: {describe(error)}") from None
    named = [f'tenant "{tenant.id}"' for tenant in seed.tenants]
    named += [f'adapter "{adapter.name}"' for adapter in seed.adapters]
    for one in named:
        if named.count(one) > 1:
            raise SettingsError(f"{file}: {one} is named twice")
    return seed


def _apply_adapter(admin: Admin, wanted: SeedAdapter, dry_run: bool) -> str | None:
    """What was done for an adapter, in words. What its source holds, only the server can tell."""
    there: Adapter | None = _unless_missing(lambda: admin.adapter(wanted.name))
    if dry_run:
        return f"{'register' if there is None else 'compare'} {wanted.name} with {wanted.source}"
    revision = admin.register_adapter(
        wanted.name, wanted.source, activate=True, template=wanted.template, shared=wanted.shared
    )
    if there is None or there.active != revision.id:
        return f"activate {revision.id}"
    return f"share {wanted.name}: {wanted.shared}" if there.shared != wanted.shared else None


def _steps(admin: Admin, wanted: SeedTenant) -> Iterator[tuple[str, Callable[[], object]]]:
    """What there is to do for a tenant, in words and as something to call."""
    tenant, fields = wanted.id, wanted.model_dump(exclude={"id", "grants"})
    there: Tenant | None = _unless_missing(lambda: admin.tenant(tenant))
    granted = set() if there is None else set(there.granted)
    if there is None:
        yield f"create {tenant}", partial(admin.create_tenant, tenant, **fields)
    elif changes := {name: value for name, value in fields.items() if getattr(there, name) != value}:
        said = ", ".join(f"{name} {_cell(value)}" for name, value in changes.items())
        yield f"set {tenant}: {said}", partial(admin.set_tenant, tenant, **changes)
    for adapter in sorted(set(wanted.grants) - granted):
        yield f"grant {tenant}: {adapter}", partial(admin.grant, tenant, adapter)
    for adapter in sorted(granted - set(wanted.grants)):
        yield f"ungrant {tenant}: {adapter}", partial(admin.ungrant, tenant, adapter)


def _unless_missing(ask: Callable[[], Answer]) -> Answer | None:
    try:
        return ask()
    except UnknownSubject:
        return None


def _limits(weight: float | None, in_flight: int | None, requests: int | None, tokens: int | None) -> Limits:
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
    return limits


def _server() -> Client:
    """The server that the environment names, as its administrator.

    Raises:
        SettingsError: there is no admin key.
    """
    if not os.environ.get(ADMIN_KEY_VARIABLE, "").partition(",")[0].strip():
        raise SettingsError(f"set {ADMIN_KEY_VARIABLE} to the key that the server was started with")
    return Client()


def _ask(ask: Callable[[Admin], Answer]) -> Answer:
    with _server() as server:
        return ask(server.admin)


def _show_adapter(adapter: Adapter, as_json: bool) -> None:
    if as_json:
        _show(adapter, (), as_json)
        return
    for_whom = "all tenants" if adapter.shared else "tenants with a grant"
    typer.echo(f"{adapter.name} for {for_whom}, active: {_cell(adapter.active)}")
    rows = [
        _fields(revision) | {"held_by": sum(one == "held" for one in revision.replicas.values())}
        for revision in adapter.revisions
    ]
    _table(rows, (*_REVISION_COLUMNS, "held_by"))


def _show_key(issued: Key, as_json: bool) -> None:
    _show(issued, _KEY_COLUMNS, as_json)
    if not as_json:
        typer.echo(f"{issued.key}\nKeep it: it is shown this once.")


def _show(one: BaseModel, columns: tuple[str, ...], as_json: bool) -> None:
    """A table of one row, or the JSON as it came."""
    if as_json:
        typer.echo(json.dumps(_fields(one)))
    else:
        _table([_fields(one)], columns)


def _show_all(all_: Sequence[BaseModel], columns: tuple[str, ...], as_json: bool) -> None:
    """A table with a row each, or the JSON as it came."""
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [_fields(one) for one in all_]}))
    else:
        _table([_fields(one) for one in all_], columns)


def _fields(one: BaseModel) -> dict[str, Any]:
    """What the server said of it."""
    return one.model_dump(mode="json", exclude_unset=True)


def _table(rows: Sequence[dict[str, Any]], columns: tuple[str, ...]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.replace("_", " "), no_wrap=name in _WHOLE, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_cell(one)}" for name, one in value.items())
    return str(value)
