"""``dear replicas``."""

from __future__ import annotations

from dear_tools.admin.ask import ask
from dear_tools.admin.show import JsonOption, fields_of, show_all, show_table

_COLUMNS = ("id", "role", "state", "load", "queued_tokens", "current", "holds", "failed")


def replicas(as_json: JsonOption = False) -> None:
    """Gateways and engines that run, with their states, loads and revisions."""
    found = ask(lambda admin: admin.replicas())
    if as_json:
        show_all(found, (), as_json)
        return
    rows = [
        fields_of(one)
        | {
            "holds": sorted(revision for revision, said in one.revisions.items() if said == "held"),
            "failed": sorted(revision for revision, said in one.revisions.items() if said != "held"),
        }
        for one in found
    ]
    show_table(rows, _COLUMNS)
