"""``dear apply``: a file of tenants and adapters, and what it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dear_serving.http.adapter_bodies import NewAdapter
from dear_serving.http.tenant_bodies import NewTenant
from dear_tools.admin.apply_file import WantedAdapter, WantedTenant
from dear_tools.exits import ToolError
from tests.tools.admin.conftest import run, run_json

TENANTS = """
tenants:
  - id: acme
    weight: 2
    requests_per_minute: 60
    grants: [medical]
  - id: beta
"""


def test_a_file_is_applied_once(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(TENANTS)
    planned = run("apply", str(file), "--dry-run")
    assert planned == "would create acme\nwould grant acme: medical\nwould create beta\n"
    assert run_json("tenants", "list")["data"] == []
    assert run("apply", str(file)) == planned.replace("would ", "")
    assert run_json("tenants", "show", "acme")["weight"] == 2.0
    assert run_json("tenants", "show", "acme")["granted"] == ["medical"]
    assert run("apply", str(file)) == "nothing to change\n"


def test_a_file_that_changed_changes_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(TENANTS)
    run("apply", str(file))
    file.write_text("tenants: [{id: acme, weight: 3}]")
    said = run("apply", str(file)).splitlines()
    assert said == ["set acme: weight 3.0, requests_per_minute -", "ungrant acme: medical"]
    assert run_json("tenants", "show", "beta")["id"] == "beta"  # not named, not touched


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenants: [{id: Acme}]", "tenants.0.id: String should match pattern"),
        ("tenants: [{id: a}, {id: b, quota: 1}]", "tenants.1.quota: unknown setting"),
        ("tenants: [{id: a}, {id: a}]", 'tenant "a" is named twice'),
        ("tenants: [{id: a, weight: heavy}]", "tenants.0.weight: Input should be a valid number"),
        ("tenant: []", "tenant: unknown setting"),
        ("- a", "Input should be an object"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_file_changes_nothing(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(text)
    with pytest.raises(ToolError, match=said):
        run("apply", str(file))
    assert run_json("tenants", "list")["data"] == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot read .*none\.yaml: No such file"):
        run("apply", str(tmp_path / "none.yaml"))


def test_a_file_of_adapters_says_what_it_would_do(tmp_path: Path) -> None:
    file = tmp_path / "adapters.yaml"
    file.write_text("adapters: [{name: new, source: legal}, {name: legal, source: legal}]")
    said = run("apply", str(file), "--dry-run")
    assert said == "would register new with legal\nwould compare legal with legal\n"
    assert len(run_json("adapters", "list")["data"]) == 2


def limits_of(kind: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """What each field takes, without its default, title and description."""
    fields = kind.model_json_schema()["properties"].items()
    values = {name: field.get("anyOf", [field])[0] for name, field in fields}
    words = {"default", "title", "description", "examples"}
    return {name: {key: one[key] for key in one.keys() - words} for name, one in values.items()}


@pytest.mark.parametrize(
    ("wanted", "sent"), [(WantedTenant, NewTenant), (WantedAdapter, NewAdapter)], ids=["tenant", "adapter"]
)
def test_a_file_is_held_to_the_servers_own_limits(wanted: type[BaseModel], sent: type[BaseModel]) -> None:
    of_file, of_route = limits_of(wanted), limits_of(sent)
    shared = of_file.keys() & of_route.keys()
    assert of_file.keys() - shared <= {"grants"}
    assert {name: of_file[name] for name in shared} == {name: of_route[name] for name in shared}
