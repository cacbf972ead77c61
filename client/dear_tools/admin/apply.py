"""``dear apply``: a server's adapters and tenants as a file names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dear_client import UnknownSubject
from dear_client.client import Admin
from dear_tools.admin.apply_file import WantedAdapter, WantedTenant, read_apply_file
from dear_tools.admin.ask import server
from dear_tools.admin.show import cell

T = TypeVar("T")


def apply(
    file: Annotated[Path, typer.Argument(help="YAML file of adapters and tenants.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
) -> None:
    """Set adapters, tenants, their limits and grants as a file has them. Applied twice, nothing changes.

    The file is checked before anything is changed. What it does not name stays as it is.
    """
    wanted = read_apply_file(file)
    with server() as client:
        changes = [_apply_adapter(client.admin, adapter, dry_run) for adapter in wanted.adapters]
        for tenant in wanted.tenants:
            for change, do in _steps(client.admin, tenant):
                if not dry_run:
                    do()
                changes.append(change)
    for change in filter(None, changes):
        typer.echo(f"would {change}" if dry_run else change)
    if not any(changes):
        typer.echo("nothing to change")


def _apply_adapter(admin: Admin, wanted: WantedAdapter, dry_run: bool) -> str | None:
    """What was done for an adapter, in words. Only the server can read what is in its source."""
    current = _unless_missing(lambda: admin.adapter(wanted.name))
    if dry_run:
        return f"{'register' if current is None else 'compare'} {wanted.name} with {wanted.source}"
    revision = admin.register_adapter(
        wanted.name, wanted.source, activate=True, template=wanted.template, shared=wanted.shared
    )
    if current is None or current.active != revision.id:
        return f"activate {revision.id}"
    return f"share {wanted.name}: {wanted.shared}" if current.shared != wanted.shared else None


def _steps(admin: Admin, wanted: WantedTenant) -> Iterator[tuple[str, Callable[[], object]]]:
    """What there is to do for a tenant, in words and as something to call."""
    tenant, fields = wanted.id, wanted.model_dump(exclude={"id", "grants"})
    current = _unless_missing(lambda: admin.tenant(tenant))
    granted = set() if current is None else set(current.granted)
    if current is None:
        yield f"create {tenant}", partial(admin.create_tenant, tenant, **fields)
    elif changes := {name: value for name, value in fields.items() if getattr(current, name) != value}:
        said = ", ".join(f"{name} {cell(value)}" for name, value in changes.items())
        yield f"set {tenant}: {said}", partial(admin.set_tenant, tenant, **changes)
    for adapter in sorted(set(wanted.grants) - granted):
        yield f"grant {tenant}: {adapter}", partial(admin.grant, tenant, adapter)
    for adapter in sorted(granted - set(wanted.grants)):
        yield f"ungrant {tenant}: {adapter}", partial(admin.ungrant, tenant, adapter)


def _unless_missing(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except UnknownSubject:
        return None
