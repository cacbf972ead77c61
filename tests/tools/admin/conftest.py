"""The admin commands, against the real routes in process."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from typer.testing import CliRunner

from dear_client import Client
from dear_serving.cli.main import app
from dear_serving.gateway.state import GatewayState
from dear_tools.admin import ask
from tests.conftest import InProcess


@pytest.fixture(autouse=True)
def in_process(with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands reach the routes of this process, as the administrator."""
    monkeypatch.setenv("DEAR_ADMIN_KEY", "root")
    monkeypatch.delenv("DEAR_BASE_URL", raising=False)
    monkeypatch.setattr(ask, "Client", partial(Client, transport=InProcess(with_tenants)))


def run(*arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=True, env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def run_json(*arguments: str) -> dict[str, Any]:
    """What a command prints for programs."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found
