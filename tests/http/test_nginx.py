"""configs/edge/nginx.conf with a real nginx, where one is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dear_serving.process.background import free_port
from tests.conftest import ROOT
from tests.support.fake_server import TENANTS, FakeServer, fake_server

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = [
    pytest.mark.attack,
    pytest.mark.integration,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)"),
]
CONFIG = ROOT / "configs" / "edge" / "nginx.conf"
BODY = json.dumps({"query": "q", "documents": ["a", "b"], "return_documents": True}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture(scope="module")
def edge(server: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx in front of the server, with time limits of a second."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = CONFIG.read_text()
    for line, changed in {
        "listen 127.0.0.1:8080;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server {httpx.URL(server.url).netloc.decode()};",
        "client_header_timeout 10s;": "client_header_timeout 1s;",
        "client_body_timeout 10s;": "client_body_timeout 1s;",
    }.items():
        assert line in text
        text = text.replace(line, changed)
    (folder / "nginx.conf").write_text(text)
    # As root it would change to a user who may not write into the test's folder.
    more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    command = [str(NGINX), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", more]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            deadline_s = time.monotonic() + 10
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                        break
                assert time.monotonic() < deadline_s, (folder / "log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


@pytest.fixture
def http(server: FakeServer, edge: int) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {server.keys[TENANTS[0]]}", "content-type": "application/json"}
    with httpx.Client(base_url=f"http://127.0.0.1:{edge}", headers=headers, timeout=30) as client:
        yield client


def first_answer(port: int, data: bytes) -> tuple[bytes, float]:
    """What comes back first, and the seconds until then."""
    began_s = time.monotonic()
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(data)
        return connection.recv(100), time.monotonic() - began_s
    return b"", time.monotonic() - began_s


def test_the_file_as_it_is_is_a_valid_configuration(tmp_path: Path) -> None:
    command = [str(NGINX), "-t", "-p", str(tmp_path), "-c", str(CONFIG), "-e", "stderr"]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_requests_and_streams_pass(http: httpx.Client) -> None:
    reply = http.post("/v2/rerank", content=BODY, headers={"x-request-id": "of-the-caller"})
    assert reply.status_code == 200
    assert reply.json()["id"] == "of-the-caller"
    streamed = {**json.loads(BODY), "dear": {"stream": True}}
    events = http.post("/v2/rerank", json=streamed).text
    assert events.startswith("event: rank")
    assert events.endswith("data: [DONE]\n\n")
    large = json.dumps({"query": "q", "documents": ["x" * 900_000] * 5}).encode()
    assert http.post("/v2/rerank", content=large).status_code == 200


def test_slow_bodies_stay_at_the_edge(server: FakeServer, edge: int) -> None:
    head = (
        f"POST /v2/rerank HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.keys[TENANTS[0]]}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", edge), timeout=10) as connection:
        connection.sendall(head.encode())
        time.sleep(0.5)
        with server.client() as direct:
            assert "dear_bodies_arriving 0.0" in direct.get("/metrics").text
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100)[:12] in (b"", b"HTTP/1.1 408")


def test_headers_have_a_time_and_a_size(edge: int) -> None:
    reply, waited_s = first_answer(edge, b"GET /health HTTP/1.1\r\nhost: x\r\n")
    assert reply[:12] in (b"", b"HTTP/1.1 408")
    assert waited_s < 5
    large = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-large: " + b"y" * 70_000 + b"\r\n\r\n"
    assert first_answer(edge, large)[0].startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


def test_a_body_over_the_limit_is_refused_by_its_length(edge: int) -> None:
    length = 33 * 1024 * 1024
    head = f"POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
    assert first_answer(edge, head.encode())[0].startswith(b"HTTP/1.1 413")


def test_rays_own_pages_are_not_reached(http: httpx.Client) -> None:
    assert http.get("/-/routes").status_code == 404
