"""Replies of the admin routes: a table for people, or the server's JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON.")]

# What one copies from a table stays in one piece.
_UNBROKEN = {"id", "name", "active", "previous", "subject"}


def show(one: BaseModel, columns: tuple[str, ...], as_json: bool) -> None:
    """One object: a table of one row, or the JSON as it came."""
    if as_json:
        typer.echo(json.dumps(fields_of(one)))
    else:
        show_table([fields_of(one)], columns)


def show_all(all_: Sequence[BaseModel], columns: tuple[str, ...], as_json: bool) -> None:
    """Many objects: a table with a row each, or the JSON as it came."""
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": [fields_of(one) for one in all_]}))
    else:
        show_table([fields_of(one) for one in all_], columns)


def fields_of(one: BaseModel) -> dict[str, Any]:
    """The fields that the server sent."""
    return one.model_dump(mode="json", exclude_unset=True)


def show_table(rows: Sequence[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """A table of the columns named, a row each."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.replace("_", " "), no_wrap=name in _UNBROKEN, overflow="fold")
    for row in rows:
        table.add_row(*(cell(row[name]) for name in columns))
    Console().print(table)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(one)}" for name, one in value.items())
    return str(value)
