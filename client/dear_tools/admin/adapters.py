"""``dear adapters``."""

from __future__ import annotations

from typing import Annotated

import typer

from dear_client import Adapter
from dear_tools.admin.ask import ask
from dear_tools.admin.show import JsonOption, cell, fields_of, show, show_all, show_table

adapters = typer.Typer(no_args_is_help=True, help="Adapters: their revisions, and which one serves.")

AdapterArgument = Annotated[str, typer.Argument(help="The adapter's public name.")]

_REVISION_COLUMNS = ("id", "state", "template", "changed", "reason")


@adapters.command("list")
def list_adapters(as_json: JsonOption = False) -> None:
    """All adapters."""
    found = ask(lambda admin: admin.adapters())
    if as_json:
        show_all(found, (), as_json)
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
    show_table(rows, ("name", "active", "previous", "for", "states"))


@adapters.command("show")
def show_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """An adapter's revisions, newest first, and the engine replicas that hold them."""
    _show_adapter(ask(lambda admin: admin.adapter(adapter)), as_json)


@adapters.command("register")
def register_adapter(
    adapter: AdapterArgument,
    source: Annotated[
        str, typer.Argument(help="Folder in the server's adapters.root, or URL under adapters.sources.")
    ],
    activate: Annotated[
        bool, typer.Option("--activate", help="Activate it as soon as it is staged.")
    ] = False,
    template: Annotated[str | None, typer.Option(help="Prompt template it was trained with.")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="For this tenant alone; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check an adapter, keep it as a revision, and stage it on every engine."""
    revision = ask(
        lambda admin: admin.register_adapter(
            adapter, source, activate=activate, template=template, tenants=tenant or ()
        )
    )
    show(revision, _REVISION_COLUMNS, as_json)
    if not as_json and revision.state == "staged":
        typer.echo(f"serve it with: dear adapters activate {adapter} {revision.id.partition('@')[2]}")


@adapters.command("activate")
def activate_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str, typer.Argument(help="The revision's id, or the beginning of its digest.")],
    as_json: JsonOption = False,
) -> None:
    """Switch a name to a revision. Requests in flight finish on the revision they started with."""
    show(ask(lambda admin: admin.activate_adapter(adapter, revision)), _REVISION_COLUMNS, as_json)


@adapters.command("rollback")
def rollback_adapter(adapter: AdapterArgument, as_json: JsonOption = False) -> None:
    """Switch a name back to its previous revision."""
    show(ask(lambda admin: admin.rollback_adapter(adapter)), _REVISION_COLUMNS, as_json)


@adapters.command("retire")
def retire_adapter(
    adapter: AdapterArgument,
    revision: Annotated[str | None, typer.Argument(help="One revision; else the name with all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a revision, or a name with all of its revisions, out of service."""
    _show_adapter(ask(lambda admin: admin.retire_adapter(adapter, revision)), as_json)


@adapters.command("share")
def share_adapter(
    adapter: AdapterArgument,
    private: Annotated[bool, typer.Option("--private", help="Only for tenants with a grant.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open an adapter to every tenant."""
    _show_adapter(ask(lambda admin: admin.share_adapter(adapter, not private)), as_json)


def _show_adapter(adapter: Adapter, as_json: bool) -> None:
    if as_json:
        show(adapter, (), as_json)
        return
    for_whom = "all tenants" if adapter.shared else "tenants with a grant"
    typer.echo(f"{adapter.name} for {for_whom}, active: {cell(adapter.active)}")
    rows = [
        fields_of(revision) | {"held_by": sum(one == "held" for one in revision.replicas.values())}
        for revision in adapter.revisions
    ]
    show_table(rows, (*_REVISION_COLUMNS, "held_by"))
