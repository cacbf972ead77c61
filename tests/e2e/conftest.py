"""One server on the real engine for the whole suite, started and stopped as a user does."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from dear_serving.process.background import BackgroundServer
from tests.conftest import CPU_CONFIG, ROOT

STOP_TIMEOUT_S = 10
ADMIN_KEY = "the-administrators"
HUB_TOKEN = "hf_TheTokenOfTheTests"


class Server(BackgroundServer):
    """A server under test: what it prints can be waited for, and what it started can be looked at."""

    def wait_for_line(self, text: str, timeout_s: float = 120) -> None:
        """Return when the output has ``text``."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.output():
            assert time.monotonic() < deadline_s, self.output()
            time.sleep(0.1)

    def descendants(self) -> list[psutil.Process]:
        """Every process the server started, itself left out."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def ray_logs(self) -> Path:
        """The folder of the logs of Ray, Serve and vLLM."""
        commands = (" ".join(process.cmdline()) for process in self.descendants())
        found = next(filter(None, (re.search(r"\S*/session_[^/\s]+/logs", one) for one in commands)))
        return Path(found[0].partition("=")[2] or found[0])

    def check_stop(self, number: int = signal.SIGINT) -> None:
        """Send a signal: within ten seconds it has ended well, and nothing that it started is left."""
        started = self.descendants()
        assert started
        started_s = time.monotonic()
        self.stop(number)
        assert time.monotonic() - started_s < STOP_TIMEOUT_S
        assert self.process.returncode == 0
        assert running(started) == []


def running(processes: list[psutil.Process]) -> list[str]:
    """Those that still run, as readable command lines; zombies do not."""
    alive = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(" ".join(process.cmdline())[:100])
        except psutil.NoSuchProcess:
            continue
    return alive


def processes(server: Server, name: str) -> list[psutil.Process]:
    """Those of the server's processes that have this in their name."""
    return [one for one in server.descendants() if name in _name(one)]


def _name(process: psutil.Process) -> str:
    try:
        return process.name() + "".join(process.cmdline())
    except psutil.Error:
        return ""


def core_of(replica: psutil.Process) -> psutil.Process:
    """The process of a replica's vLLM engine core."""
    return next(one for one in replica.children(recursive=True) if "EngineCore" in _name(one))


OWN_TEMPLATE = """
source: the end-to-end tests
first_identifier: 1
text:
  opening: "Query: {query}\\n\\n"
  passage: "[{i}] {text}"
  closing: "\\n\\nSearch Query: {query}. Rank the {num} passages."
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU default, with the legal adapter twice more: on the chat prompt and on a user's own one."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "templates").mkdir()
    (folder / "templates" / "own.yaml").write_text(OWN_TEMPLATE)
    data = yaml.safe_load(CPU_CONFIG.read_text())
    data["model"]["source"] = str(ROOT / "configs" / "demo" / "base")
    # A folder of the tests' own, that they may add to.
    shutil.copytree(ROOT / "configs" / "demo" / "adapters", folder / "adapters")
    data["adapters"] |= {"root": "adapters", "capacity": 100, "slots": 4}
    for template in ("chat", "own"):
        data["adapters"]["serve"].append({"name": f"legal-{template}", "path": "legal", "template": template})
    data["ranking"] = {"templates": "templates"}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Iterator[Server]:
    """The server of all tests that leave it as it was. Its stop is checked as well."""
    log = tmp_path_factory.mktemp("server") / "output.log"
    server = Server(config, log, {"DEAR_ADMIN_KEY": ADMIN_KEY, "HF_TOKEN": HUB_TOKEN})
    server.start()
    try:
        yield server
        assert len(server.descendants()) > 3
        server.check_stop()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """The Python of configs/locks/clients.txt; its environment is made if need be."""
    install = [sys.executable, str(ROOT / "configs" / "locks" / "install.py"), "clients"]
    made = subprocess.run(install, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / ".venv-clients" / "bin" / "python"


@pytest.fixture(scope="session")
def adapters_folder(config: Path) -> Path:
    """Where the server's adapters may come from."""
    return config.parent / "adapters"


BODY = {
    "query": "placebo trial of the parking permit",
    "documents": [
        "The parking permit is void",
        "Parking permit prices",
        "A placebo trial of the parking permit",
        "Garden furniture",
    ],
}
"""What the demo's adapters disagree on: one puts what is void last, the other reports of trials first."""


def order(reply: dict[str, Any]) -> tuple[int, ...]:
    """The documents' indices, best first."""
    return tuple(result["index"] for result in reply["results"])


def order_of(http: httpx.Client, model: str) -> tuple[int, ...]:
    """The order that a model gives BODY."""
    reply = http.post("/v2/rerank", json=BODY | {"model": model})
    assert reply.status_code == 200, reply.text
    return order(reply.json())


class Admin:
    """The admin routes of a server."""

    def __init__(self, url: str) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        self.http = httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=180)

    def register(self, name: str, source: str, **options: object) -> httpx.Response:
        """Register an adapter; its reply, whatever it is."""
        return self.http.post("/adapters", json={"name": name, "source": source, **options})

    def do(self, name: str, action: str, **body: object) -> dict[str, Any]:
        """An action on an adapter that has to go well."""
        reply = self.http.post(f"/adapters/{name}/{action}", json=body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def states(self, name: str) -> dict[str, str]:
        """The state of each revision of an adapter."""
        found = self.http.get(f"/adapters/{name}").json()["revisions"]
        return {revision["id"]: revision["state"] for revision in found}


@pytest.fixture(scope="session")
def admin(server: Server) -> Iterator[Admin]:
    """An administrator of the server."""
    administrator = Admin(server.url)
    yield administrator
    administrator.http.close()


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """A plain HTTP client of the server."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
