"""``dear keys``."""

from __future__ import annotations

from typing import Annotated

import typer

from dear_client import Key
from dear_tools.admin.ask import ask
from dear_tools.admin.show import JsonOption, show, show_all
from dear_tools.admin.tenants import TenantArgument

keys = typer.Typer(no_args_is_help=True, help="API keys of tenants.")

_COLUMNS = ("id", "label", "state", "created", "expires", "revoked")


@keys.command("list")
def list_keys(tenant: TenantArgument, as_json: JsonOption = False) -> None:
    """A tenant's keys."""
    show_all(ask(lambda admin: admin.keys(tenant)), _COLUMNS, as_json)


@keys.command("create")
def create_key(
    tenant: TenantArgument,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    expires_in_s: Annotated[float | None, typer.Option(help="Seconds until it expires; else never.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once."""
    _show_key(ask(lambda admin: admin.create_key(tenant, label, expires_in_s)), as_json)


@keys.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    overlap_s: Annotated[float, typer.Option(help="Seconds for which the old key still works.")] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Replace a key. The new one is shown once."""
    _show_key(ask(lambda admin: admin.rotate_key(key, overlap_s)), as_json)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id.")], as_json: JsonOption = False
) -> None:
    """Revoke a key, for good."""
    show(ask(lambda admin: admin.revoke_key(key)), _COLUMNS, as_json)


def _show_key(issued: Key, as_json: bool) -> None:
    show(issued, _COLUMNS, as_json)
    if not as_json:
        typer.echo(f"{issued.key}\nKeep it: it is shown this once.")
