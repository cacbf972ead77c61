"""http.admin_port on the server that people run: Ray's proxy listens on both ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dear_serving.process.background import free_port
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import ADMIN_KEY, BODY, Server

ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


def settings_file(folder: Path, admin_port: int) -> Path:
    """The CPU default without adapters, with keys, on two ports."""
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"] = {"capacity": 0}
    config.pop("default_model", None)
    config["tenancy"] = {"open_metrics": True}
    config["http"] = {"admin_port": admin_port}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    file = settings_file(tmp_path, free_port())
    environment = {"DEAR_ADMIN_KEY": ADMIN_KEY, "DEAR_API_KEYS": "a-tenants"}
    with Server(file, tmp_path / "output.log", environment) as running:
        yield running


@pytest.mark.e2e
@pytest.mark.long
def test_tenants_have_one_port_and_administrators_the_other(server: Server) -> None:
    port = yaml.safe_load(server.config.read_text())["http"]["admin_port"]
    server.wait_for_line(f"admin routes and all metrics at http://127.0.0.1:{port}")
    tenant = {"authorization": "Bearer a-tenants"}
    with (
        httpx.Client(base_url=server.url, timeout=120) as main,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as admin,
    ):
        ranked = main.post("/v2/rerank", json=BODY, headers=tenant)
        assert sorted(one["index"] for one in ranked.json()["results"]) == [0, 1, 2, 3]
        assert admin.post("/v2/rerank", json=BODY, headers=tenant).status_code == 404
        assert admin.get("/admin/v1/tenants", headers=ADMIN).status_code == 200
        forged = ADMIN | {"host": f"127.0.0.1:{port}", "x-forwarded-port": str(port)}
        assert main.get("/admin/v1/tenants", headers=forged).status_code == 404
        assert "dear_requests_in_flight" in admin.get("/metrics").text
        assert main.get("/metrics").status_code == 401
        for client in (main, admin):
            assert client.get("/ready").status_code == 200
    server.check_stop()


@pytest.mark.integration
def test_an_admin_port_that_is_taken_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        file = settings_file(tmp_path, port)
        command = [sys.executable, "-m", "dear_serving", "serve", "--config", str(file)]
        command += ["--port", str(free_port())]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    taken = f"dear: cannot listen on 127.0.0.1:{port}: address already in use"
    assert done.stderr == f"{taken}; choose another in http.admin_port\n"


@pytest.mark.integration
def test_a_port_of_the_command_line_that_is_the_admin_port_is_refused(tmp_path: Path) -> None:
    port = free_port()
    file = settings_file(tmp_path, port)
    command = [sys.executable, "-m", "dear_serving", "serve", "--config", str(file), "--port", str(port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = f"dear: --port: {port} is http.admin_port already; choose another\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.integration
def test_an_admin_port_behind_haproxy_is_refused(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "dear_serving", "serve", "--port", str(free_port())]
    command += ["--config", str(settings_file(tmp_path, port))]
    environment = os.environ | {"RAY_SERVE_ENABLE_HA_PROXY": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
    said = (
        f"HAProxy, which RAY_SERVE_ENABLE_HA_PROXY=1 asks for, does not open {port}; leave out one of the two"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"dear: cannot start: http.admin_port: {said}"
