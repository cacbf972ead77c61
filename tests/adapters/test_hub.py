"""A base model on the Hugging Face hub, here a small server: the token opens it, and is never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.conftest import CPU_CONFIG, ROOT

pytestmark = pytest.mark.integration

BASE = ROOT / "configs" / "demo" / "base"
TOKEN = "hf_TheTokenOfTheTests"


class Hub(BaseHTTPRequestHandler):
    """The hub, as far as one gated model's config.json."""

    def do_HEAD(self) -> None:
        content = (BASE / "config.json").read_bytes()
        if not self.path.endswith("/org/gated/resolve/main/config.json"):
            self.send_error(404)
            return
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_GET = do_HEAD  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """The address of a hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("token", "state"), [(TOKEN, "ok"), (f"{TOKEN}Wrong", "wrong"), (None, "wrong")])
def test_a_gated_base_on_the_hub_passes_with_its_token(
    token: str | None, state: str, hub: str, tmp_path: Path
) -> None:
    config = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = "org/gated"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hub")}
    environment |= {} if token is None else {"HF_TOKEN": token}
    command = [sys.executable, "-m", "dear_serving", "doctor", "--json"]
    command += ["--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert findings["models"]["state"] == state, findings["models"]
    assert state == "ok" or "org/gated" in findings["models"]["found"]
    assert TOKEN not in done.stdout + done.stderr
