"""configs/compose.yaml and the unit for systemd, with the tools that read them where those are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dear_serving.settings import (
    ADMIN_KEY_VARIABLE,
    API_KEYS_VARIABLE,
    LIMITS_VARIABLE,
    REGISTRY_VARIABLE,
    load_settings,
)
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
FILES = ["compose.yaml", "compose.gpu.yaml"]
SECRETS = {"DEAR_ADMIN_KEY": "a", "DEAR_API_KEYS": "b", "POSTGRES_PASSWORD": "c", "HF_TOKEN": "d"}
UNIT = CONFIGS / "systemd" / "dear.service"


def compose(folder: Path, files: list[str]) -> subprocess.CompletedProcess[str]:
    """``docker compose config``, which needs no daemon; version 1 knows no name."""
    docker = shutil.which("docker")
    command = [docker or "", "compose"]
    if docker is None or subprocess.run([*command, "version"], capture_output=True).returncode:
        program = shutil.which("docker-compose")
        if program is None:
            pytest.skip("docker compose is not installed (apt-get install docker-compose)")
        command = [program]
        for file in files:
            text = (folder / file).read_text()
            (folder / file).write_text(re.sub(r"^name: .*\n", "", text, flags=re.MULTILINE))
    named = [part for file in files for part in ("-f", str(folder / file))]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | SECRETS
    return subprocess.run([*command, *named, "config"], env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in FILES:
        shutil.copy(CONFIGS / file, tmp_path)
    return tmp_path


@pytest.mark.integration
@pytest.mark.parametrize("files", [FILES[:1], FILES], ids=["cpu", "gpu"])
def test_compose_takes_the_files(files: list[str], folder: Path) -> None:
    done = compose(folder, files)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() >= {"dear", "postgres", "redis"}
    assert services["dear"]["image"] == f"dear-serving:{'gpu' if len(files) == 2 else 'cpu'}"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cap_drop:", "cap_dropp:"),
        ("condition: service_healthy", "conditon: service_healthy"),
        ("dear:\n", "dear: x\n"),
    ],
)
def test_compose_finds_a_typo(old: str, new: str, folder: Path) -> None:
    text = (folder / FILES[0]).read_text()
    assert old in text
    (folder / FILES[0]).write_text(text.replace(old, new, 1))
    assert compose(folder, FILES[:1]).returncode != 0


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONFIGS / FILES[0]).read_text())["services"]
    return found


def test_compose_names_files_that_are_there_and_variables_that_the_server_reads() -> None:
    found = services()
    build = found["dear"]["build"]
    assert (CONFIGS / build["context"] / build["dockerfile"]).is_file()
    own = {ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE, REGISTRY_VARIABLE, LIMITS_VARIABLE}
    assert found["dear"]["environment"].keys() == own
    (config, _) = found["prometheus"]["volumes"]
    scrape = yaml.safe_load((CONFIGS / config.partition(":")[0]).read_text())
    assert scrape["scrape_configs"][0]["static_configs"] == [{"targets": ["dear:8000"]}]
    assert set(re.findall(r"\$\{(\w+):\?", (CONFIGS / FILES[0]).read_text())) == SECRETS.keys() - {"HF_TOKEN"}


def test_compose_opens_ports_to_this_machine_alone_and_databases_to_none() -> None:
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if name in {"postgres", "redis"}:
            assert service["networks"] == ["inside"]
            assert "ports" not in service
    assert yaml.safe_load((CONFIGS / FILES[0]).read_text())["networks"]["inside"] == {"internal": True}


def test_the_containers_are_given_time_to_drain() -> None:
    drain_s = load_settings(CONFIGS / "cpu.yaml").gateway.drain_s
    assert float(services()["dear"]["stop_grace_period"].removesuffix("s")) > drain_s
    (timeout_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert float(timeout_s) > drain_s


def analyze(*arguments: str, unit: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    # Here the server is not installed where the unit has it.
    (folder / "dear.service").write_text(unit.replace("/opt/dear/bin/dear", "/bin/true"))
    command = [program, *arguments, str(folder / "dear.service")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.integration
def test_systemd_takes_the_unit_and_a_typo_is_found(tmp_path: Path) -> None:
    text = UNIT.read_text()
    done = analyze("verify", unit=text, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = analyze("verify", unit=text.replace("KillMode=mixed", "KilMode=mixed"), folder=tmp_path)
    assert "KilMode" in done.stderr


@pytest.mark.integration
def test_systemd_says_that_the_unit_is_hardened(tmp_path: Path) -> None:
    text = UNIT.read_text()
    security = ("security", "--offline=true", "--threshold=25")  # 0: nothing is exposed; 100: all is
    done = analyze(*security, unit=text, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    bare = re.sub(r"^(Protect|Restrict|SystemCall|NoNew|Capability).*\n", "", text, flags=re.MULTILINE)
    assert analyze(*security, unit=bare, folder=tmp_path).returncode != 0


def test_the_units_command_is_one_that_the_server_has() -> None:
    text = UNIT.read_text()
    assert "ExecStart=/opt/dear/bin/dear serve --config /etc/dear/config.yaml\n" in text
    for named in re.findall(r"configs/[\w/.-]+", text):
        assert (ROOT / named).exists(), named
