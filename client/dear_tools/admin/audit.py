"""``dear audit``."""

from __future__ import annotations

from typing import Annotated

import typer

from dear_tools.admin.ask import ask
from dear_tools.admin.show import JsonOption, show_all

_MOST_CHANGES = 1000
_COLUMNS = ("at", "actor", "action", "subject", "detail")


def audit(
    limit: Annotated[int, typer.Option(min=1, max=_MOST_CHANGES, help="How many changes.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Who changed what, newest first."""
    show_all(ask(lambda admin: admin.audit(limit)), _COLUMNS, as_json)
