"""A running server's admin routes from a shell: ``dear adapters``, ``tenants``, ``keys`` and others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
import yaml
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from dear_serving.errors import SettingsError
from dear_serving.settings import ADMIN_KEY_VARIABLE, describe
from dear_serving.tenancy.bodies import Seed, SeedAdapter, SeedTenant

URL_VARIABLE = "DEAR_BASE_URL"
DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT_S = 30.0
_STAGING_S = 150.0
_PAGE = 1000

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
    found = _pages("/adapters")
    if as_json:
        _show({"object": "list", "data": found}, (), as_json)
        return
    rows = [
        {
            "name": one["name"],
            "active": one["active"],
            "previous": one["previous"],
            "for": "all tenants" if one["shared"] else "those with a grant",
            "states": [revision["state"] for revision in one["revisions"]],
        }
        for one in found
    ]
    _show({"data": rows}, ("name", "active", "previous", "for", "states"), as_json)


@adapters.command("show")
def show_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """An adapter's revisions, newest first, and the engine replicas that hold them."""
    _show_adapter(_call("GET", _path("adapters", adapter)), as_json)


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
    body = {"name": adapter, "source": source, "activate": activate}
    body |= {"template": template} if template else {}
    body |= {"tenants": tenant, "shared": False} if tenant else {}
    revision = _call("POST", "/adapters", body, timeout_s=_STAGING_S)
    _show(revision, _REVISION_COLUMNS, as_json)
    if not as_json and revision["state"] == "staged":
        typer.echo(f"serve it with: dear adapters activate {adapter} {revision['id'].partition('@')[2]}")


@adapters.command("activate")
def activate_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str, typer.Argument(help="The revision's id, or the beginning of its digest.")],
    as_json: JsonOption = False,
) -> None:
    """Let a name stand for a revision. Requests that go on are answered by the one they began with."""
    path = _path("adapters", adapter) + "/activate"
    _show(_call("POST", path, {"revision": revision}, timeout_s=_STAGING_S), _REVISION_COLUMNS, as_json)


@adapters.command("rollback")
def rollback_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """Let a name stand for the revision before."""
    path = _path("adapters", adapter) + "/rollback"
    _show(_call("POST", path, {}, timeout_s=_STAGING_S), _REVISION_COLUMNS, as_json)


@adapters.command("retire")
def retire_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str | None, typer.Argument(help="One revision; else the name with all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a revision, or a name with all of its revisions, out of service."""
    body = {} if revision is None else {"revision": revision}
    _show_adapter(_call("POST", _path("adapters", adapter) + "/retire", body), as_json)


@adapters.command("share")
def share_adapter(
    adapter: AdapterArgument,
    private: Annotated[bool, typer.Option("--private", help="Leave it to the tenants with a grant.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open an adapter to every tenant."""
    _show_adapter(_call("PATCH", _path("adapters", adapter), {"shared": not private}), as_json)


@tenants.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """All tenants."""
    _show({"object": "list", "data": _pages("/tenants")}, _TENANT_COLUMNS, as_json)


@tenants.command("show")
def show_tenant(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """One tenant."""
    _show(_call("GET", _path("tenants", tenant)), _TENANT_COLUMNS, as_json)


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
    body = {"id": tenant} | _limits(weight, in_flight, requests_per_minute, tokens_per_minute)
    _show(_call("POST", "/tenants", body), _TENANT_COLUMNS, as_json)


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
    body = _limits(weight, in_flight, requests_per_minute, tokens_per_minute)
    _show(_call("PATCH", _path("tenants", tenant), body), _TENANT_COLUMNS, as_json)


@tenants.command("delete")
def delete_tenant(
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a tenant with its keys and grants."""
    if not yes:
        typer.confirm(f"Remove tenant {tenant} and all of its keys?", abort=True)
    _call("DELETE", _path("tenants", tenant))
    typer.echo(f"removed {tenant}")


@tenants.command("grant")
def grant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Let a tenant use an adapter that is not shared."""
    _show(_call("POST", _path("tenants", tenant, "grants"), {"adapter": adapter}), _TENANT_COLUMNS, as_json)


@tenants.command("ungrant")
def ungrant(tenant: TenantArgument, adapter: str, as_json: JsonOption = False) -> None:
    """Take an adapter from a tenant."""
    _show(_call("DELETE", _path("tenants", tenant, "grants", adapter)), _TENANT_COLUMNS, as_json)


@keys.command("list")
def list_keys(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """A tenant's keys."""
    _show(_call("GET", _path("tenants", tenant, "keys")), _KEY_COLUMNS, as_json)


@keys.command("create")
def create_key(
    tenant: TenantArgument,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds it works for; else for good.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once."""
    body: dict[str, Any] = {"label": label}
    if expires_in_s is not None:
        body["expires_in_s"] = expires_in_s
    _show_key(_call("POST", _path("tenants", tenant, "keys"), body), as_json)


@keys.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    overlap_s: Annotated[float, typer.Option(help="Seconds for which the old key goes on working.")] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """A new key in place of one. It is shown once."""
    _show_key(_call("POST", _path("keys", key, "rotate"), {"overlap_s": overlap_s}), as_json)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id.")], as_json: JsonOption = False
) -> None:
    """Shut a key out, for good."""
    _show(_call("DELETE", _path("keys", key)), _KEY_COLUMNS, as_json)


def audit(
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="How many changes.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Who changed what, newest first."""
    _show(_call("GET", f"/audit?limit={limit}"), ("at", "actor", "action", "subject", "detail"), as_json)


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
    said = [_apply_adapter(adapter, dry_run) for adapter in seed.adapters]
    for tenant in seed.tenants:
        for words, method, path, body in _steps(tenant):
            if not dry_run:
                _call(method, path, body)
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


def _apply_adapter(wanted: SeedAdapter, dry_run: bool) -> str | None:
    """What was done for an adapter, in words. What its source holds, only the server can tell."""
    path = _path("adapters", wanted.name)
    there = _call("GET", path, missing_ok=True)
    if dry_run:
        return f"{'register' if there is None else 'compare'} {wanted.name} with {wanted.source}"
    body = wanted.model_dump(exclude_none=True) | {"activate": True}
    revision = _call("POST", "/adapters", body, timeout_s=_STAGING_S)
    if there is None or there["active"] != revision["id"]:
        return f"activate {revision['id']}"
    return f"share {wanted.name}: {wanted.shared}" if there["shared"] != wanted.shared else None


def _steps(wanted: SeedTenant) -> Iterator[tuple[str, str, str, dict[str, Any] | None]]:
    """What there is to do for a tenant: in words, and as calls."""
    fields = wanted.model_dump(exclude={"id", "grants"})
    there = _call("GET", _path("tenants", wanted.id), missing_ok=True)
    if there is None:
        yield f"create {wanted.id}", "POST", "/tenants", {"id": wanted.id} | fields
        there = fields | {"granted": []}
    changes = {name: value for name, value in fields.items() if there[name] != value}
    if changes:
        said = ", ".join(f"{name} {_cell(value)}" for name, value in changes.items())
        yield f"set {wanted.id}: {said}", "PATCH", _path("tenants", wanted.id), changes
    for adapter in sorted(set(wanted.grants) - set(there["granted"])):
        path = _path("tenants", wanted.id, "grants")
        yield f"grant {wanted.id}: {adapter}", "POST", path, {"adapter": adapter}
    for adapter in sorted(set(there["granted"]) - set(wanted.grants)):
        yield (
            f"ungrant {wanted.id}: {adapter}",
            "DELETE",
            _path("tenants", wanted.id, "grants", adapter),
            None,
        )


def _pages(path: str) -> list[dict[str, Any]]:
    """All objects of a list, however many pages."""
    found: list[dict[str, Any]] = []
    after = ""
    while after is not None:
        page = _call("GET", f"{path}?limit={_PAGE}&after={quote(after)}")
        found += page["data"]
        after = page["next"]
    return found


def _show_adapter(adapter: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _show(adapter, (), as_json)
        return
    for_whom = "all tenants" if adapter["shared"] else "tenants with a grant"
    typer.echo(f"{adapter['name']} for {for_whom}, active: {_cell(adapter['active'])}")
    rows = [
        revision | {"held_by": sum(one == "held" for one in revision["replicas"].values())}
        for revision in adapter["revisions"]
    ]
    _show({"data": rows}, (*_REVISION_COLUMNS, "held_by"), as_json)


def _limits(
    weight: float | None, in_flight: int | None, requests: int | None, tokens: int | None
) -> dict[str, Any]:
    """The body's fields for the options given; 0 stands for no limit."""
    limits = {"requests_in_flight": in_flight, "requests_per_minute": requests, "tokens_per_minute": tokens}
    given: dict[str, Any] = {name: value or None for name, value in limits.items() if value is not None}
    return given if weight is None else given | {"weight": weight}


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _call(
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    missing_ok: bool = False,
    timeout_s: float = _TIMEOUT_S,
) -> Any:
    """The server's answer; None for a 404 where that is fine.

    Raises:
        SettingsError: there is no admin key, no server, or it says no; one sentence.
    """
    key = os.environ.get(ADMIN_KEY_VARIABLE, "").partition(",")[0].strip()
    if not key:
        raise SettingsError(f"set {ADMIN_KEY_VARIABLE} to the key that the server was started with")
    url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        response = httpx.request(
            method,
            f"{url.rstrip('/')}/admin/v1{path}",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_s,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SettingsError(f"no answer from {url}: {error} (set {URL_VARIABLE})") from None
    try:
        reply = response.json()
    except ValueError:
        raise SettingsError(f"{url} is not this server: HTTP {response.status_code}") from None
    if missing_ok and response.status_code == httpx.codes.NOT_FOUND:
        return None
    if response.is_error:
        said = reply.get("message") if isinstance(reply, dict) else None
        raise SettingsError(f"HTTP {response.status_code}: {said or response.reason_phrase}")
    return reply


def _show_key(issued: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(issued))
        return
    _show(issued, _KEY_COLUMNS, as_json)
    typer.echo(f"{issued['key']}\nKeep it: it is shown this once.")


def _show(reply: dict[str, Any], columns: tuple[str, ...], as_json: bool) -> None:
    """A table with a row an object, or the JSON as it came."""
    if as_json:
        typer.echo(json.dumps(reply))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.replace("_", " "), no_wrap=name in _WHOLE, overflow="fold")
    for row in reply.get("data", [reply]):
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
