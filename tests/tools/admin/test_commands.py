"""``dear adapters``, ``tenants``, ``keys``, ``replicas`` and ``audit``."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from dear_client import InvalidRequest
from dear_client import administration as client_administration
from dear_serving.cli.main import app
from dear_tools.exits import ToolError
from tests.conftest import LEGAL
from tests.tools.admin.conftest import run, run_json


def test_tables_are_for_people_and_json_for_programs() -> None:
    run("tenants", "create", "acme", "--tokens-per-minute", "1000")
    shown = run("tenants", "list")
    assert "tokens per minute" in shown
    assert "1000" in shown
    assert run_json("tenants", "list")["data"][0]["tokens_per_minute"] == 1000


def test_zero_takes_a_limit_away() -> None:
    run("tenants", "create", "acme", "--tokens-per-minute", "1000", "--in-flight", "3")
    run("tenants", "set", "acme", "--tokens-per-minute", "0")
    tenant = run_json("tenants", "show", "acme")
    assert (tenant["tokens_per_minute"], tenant["requests_in_flight"]) == (None, 3)


def test_a_key_is_shown_once() -> None:
    run("tenants", "create", "acme")
    made = run_json("keys", "create", "acme", "--label", "ci")
    rotated = run("keys", "rotate", made["id"], "--overlap-s", "0")
    assert "shown this once" in rotated
    listed = run("keys", "list", "acme")
    assert "dear_" not in listed
    assert "expired" in listed


def test_all_tenants_are_listed_however_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_administration, "_PAGE", 2)
    for number in range(5):
        run("tenants", "create", f"t{number}")
    found = run_json("tenants", "list")["data"]
    assert [one["id"] for one in found] == ["t0", "t1", "t2", "t3", "t4"]


def test_deleting_asks_first() -> None:
    run("tenants", "create", "acme")
    refused = CliRunner().invoke(app, ["tenants", "delete", "acme"], input="n\n")
    assert refused.exit_code == 1
    assert run_json("tenants", "show", "acme")["id"] == "acme"
    assert run("tenants", "delete", "acme", "--yes") == "removed acme\n"


def test_adapters_are_listed_with_what_their_names_stand_for() -> None:
    shown = run("adapters", "list")
    assert LEGAL in shown
    assert "those with a grant" in shown  # medical
    assert run_json("adapters", "list")["data"][0]["active"] == LEGAL
    assert "held by" in run("adapters", "show", "legal")


def test_replicas_are_listed_with_what_they_do() -> None:
    (gateway,) = run_json("replicas")["data"]
    assert (gateway["role"], gateway["state"], gateway["current"]) == ("gateway", "serving", True)
    shown = run("replicas")
    assert gateway["id"] in shown
    assert "queued tokens" in shown


def test_an_adapter_is_shared_and_taken_back() -> None:
    run("adapters", "share", "medical")
    assert run_json("adapters", "show", "medical")["shared"]
    run("adapters", "share", "medical", "--private")
    assert not run_json("adapters", "show", "medical")["shared"]


def test_an_adapter_is_retired() -> None:
    assert (
        "draining" in run("adapters", "retire", "legal", LEGAL)
        or run_json("adapters", "show", "legal")["active"] is None
    )
    assert "adapter.retire" in run("audit")


def test_a_source_that_the_server_refuses_is_said_in_one_sentence() -> None:
    with pytest.raises(InvalidRequest, match="leads outside the folder that adapters come from"):
        run("adapters", "register", "x", "../..")


@pytest.mark.parametrize("key", ["", " , root"])
def test_without_an_admin_key_the_commands_ask_for_one(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAR_ADMIN_KEY", key)
    with pytest.raises(ToolError, match="set DEAR_ADMIN_KEY to the key that the server was started with"):
        run("audit")
