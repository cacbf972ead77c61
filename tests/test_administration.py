"""The admin commands, against the real routes in process."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dear_client import Client, InvalidRequest
from dear_client import administration as client_administration
from dear_serving import administration
from dear_serving.cli.main import app
from dear_serving.errors import SettingsError
from dear_serving.gateway.state import GatewayState
from tests.conftest import LEGAL, InProcess

SEED = """
tenants:
  - id: acme
    weight: 2
    requests_per_minute: 60
    grants: [medical]
  - id: beta
"""


@pytest.fixture(autouse=True)
def in_process(with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands reach the routes of this process, as the administrator."""
    monkeypatch.setenv("DEAR_ADMIN_KEY", "root")
    monkeypatch.delenv("DEAR_BASE_URL", raising=False)
    in_this_process = partial(Client, transport=InProcess(with_tenants))
    monkeypatch.setattr(administration, "Client", in_this_process)


def run(*arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=True, env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def tenant(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("tenants", "show", name, "--json"))
    return found


def test_tables_are_for_people_and_json_for_programs() -> None:
    run("tenants", "create", "acme", "--tokens-per-minute", "1000")
    shown = run("tenants", "list")
    assert "tokens per minute" in shown
    assert "1000" in shown
    assert json.loads(run("tenants", "list", "--json"))["data"][0]["tokens_per_minute"] == 1000


def test_zero_takes_a_limit_away() -> None:
    run("tenants", "create", "acme", "--tokens-per-minute", "1000", "--in-flight", "3")
    run("tenants", "set", "acme", "--tokens-per-minute", "0")
    assert (tenant("acme")["tokens_per_minute"], tenant("acme")["requests_in_flight"]) == (None, 3)


def test_a_key_is_shown_once() -> None:
    run("tenants", "create", "acme")
    made = json.loads(run("keys", "create", "acme", "--label", "ci", "--json"))
    rotated = run("keys", "rotate", made["id"], "--overlap-s", "0")
    assert "shown this once" in rotated
    listed = run("keys", "list", "acme")
    assert "dear_" not in listed
    assert "expired" in listed


def test_all_tenants_are_listed_however_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_administration, "_PAGE", 2)
    for number in range(5):
        run("tenants", "create", f"t{number}")
    found = json.loads(run("tenants", "list", "--json"))["data"]
    assert [one["id"] for one in found] == ["t0", "t1", "t2", "t3", "t4"]


def test_deleting_asks_first() -> None:
    run("tenants", "create", "acme")
    refused = CliRunner().invoke(app, ["tenants", "delete", "acme"], input="n\n")
    assert refused.exit_code == 1
    assert tenant("acme")["id"] == "acme"
    assert run("tenants", "delete", "acme", "--yes") == "removed acme\n"


def test_a_seed_file_is_applied_once(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(SEED)
    planned = run("apply", str(file), "--dry-run")
    assert planned == "would create acme\nwould grant acme: medical\nwould create beta\n"
    assert json.loads(run("tenants", "list", "--json"))["data"] == []
    assert run("apply", str(file)) == planned.replace("would ", "")
    assert tenant("acme")["weight"] == 2.0
    assert tenant("acme")["granted"] == ["medical"]
    assert run("apply", str(file)) == "nothing to change\n"


def test_a_seed_file_that_changed_changes_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(SEED)
    run("apply", str(file))
    file.write_text("tenants: [{id: acme, weight: 3}]")
    said = run("apply", str(file)).splitlines()
    assert said == ["set acme: weight 3.0, requests_per_minute -", "ungrant acme: medical"]
    assert tenant("beta")["id"] == "beta"  # not named, not touched


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
def test_a_wrong_seed_file_changes_nothing(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        run("apply", str(file))
    assert json.loads(run("tenants", "list", "--json"))["data"] == []


def test_a_missing_seed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*none\.yaml: No such file"):
        run("apply", str(tmp_path / "none.yaml"))


def adapter(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("adapters", "show", name, "--json"))
    return found


def test_adapters_are_listed_with_what_their_names_stand_for() -> None:
    shown = run("adapters", "list")
    assert LEGAL in shown
    assert "those with a grant" in shown  # medical
    assert json.loads(run("adapters", "list", "--json"))["data"][0]["active"] == LEGAL
    assert "held by" in run("adapters", "show", "legal")


def test_an_adapter_is_shared_and_taken_back() -> None:
    run("adapters", "share", "medical")
    assert adapter("medical")["shared"]
    run("adapters", "share", "medical", "--private")
    assert not adapter("medical")["shared"]


def test_an_adapter_is_retired() -> None:
    assert "draining" in run("adapters", "retire", "legal", LEGAL) or adapter("legal")["active"] is None
    assert "adapter.retire" in run("audit")


def test_a_seed_file_of_adapters_says_what_it_would_do(tmp_path: Path) -> None:
    file = tmp_path / "seed.yaml"
    file.write_text("adapters: [{name: new, source: legal}, {name: legal, source: legal}]")
    said = run("apply", str(file), "--dry-run")
    assert said == "would register new with legal\nwould compare legal with legal\n"
    assert len(json.loads(run("adapters", "list", "--json"))["data"]) == 2


def test_a_source_that_the_server_refuses_is_said_in_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="leads outside the folder that adapters come from"):
        run("adapters", "register", "x", "../..")
