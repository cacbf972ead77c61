"""Serve's HAProxy in place of Ray's proxy: what callers get, what it holds off, and what it shows."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
import yaml

from dear_serving.process.background import free_port
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import ADMIN_KEY, BODY, Server, processes, running
from tests.e2e.own_server.test_survival import GATEWAY, lost_with_a_gateway
from tests.e2e.test_exposure import is_loopback, listening
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

SILENCE_S = 5
STATS, METRICS = free_port(), free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two gateways behind HAProxy, which ends connections whose caller is silent for five seconds."""
    folder = tmp_path_factory.mktemp("haproxy")
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    config["gateway"] = {"replicas": 2, "cpus": 0, "drain_s": 120}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with tempfile.TemporaryDirectory() as short:  # a path of more than 107 characters is no socket's
        environment = {
            "DEAR_ADMIN_KEY": ADMIN_KEY,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(SILENCE_S),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(STATS),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(METRICS),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{short}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{short}/admin.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{short}/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": short,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{short}/server-state",
        }
        with Server(folder / "config.yaml", folder / "output.log", environment) as up:
            yield up


def haproxy(server: Server) -> psutil.Process:
    """The one that takes connections now."""
    return next(one for one in server.descendants() if one.name() == "haproxy")


def test_lists_streams_and_text_are_answered_and_requests_keep_their_names(server: Server) -> None:
    assert haproxy(server).is_running()
    with httpx.Client(base_url=server.url, timeout=60) as http:
        ranked = http.post("/v2/rerank", json=BODY, headers={"x-request-id": "trace-1:a.b"})
        assert sorted(one["index"] for one in ranked.json()["results"]) == [0, 1, 2, 3]
        assert ranked.headers.get_list("x-request-id") == ["trace-1:a.b"]
        with http.stream("POST", "/v2/rerank", json=BODY | {"dear": {"stream": True}}) as reply:
            assert reply.read().decode().count("event: rank\n") == 4
        text = http.post("/v1/completions", json={"model": "legal", "prompt": "the permit", "max_tokens": 8})
        assert text.status_code == 200
        assert http.get("/admin/v1/tenants").status_code == 401
        assert http.get("/ready").status_code == 200


def exchange(server: Server, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """All that comes back until the connection ends."""
    address = ("127.0.0.1", httpx.URL(server.url).port or 0)
    answer = b""
    with socket.create_connection(address, timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            while more := connection.recv(65536):
                answer += more
        except ConnectionError:
            pass
    return answer


def get(*headers: bytes) -> bytes:
    return b"\r\n".join(
        (b"GET /health HTTP/1.1", b"host: 127.0.0.1", b"connection: close", *headers, b"", b"")
    )


@pytest.mark.parametrize("header", [b"x-other: \xff", b"x-request-id: caf\xe9", b"x-request-id: a b"])
def test_headers_that_are_no_text_are_no_500(header: bytes, server: Server) -> None:
    assert exchange(server, get(header)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        get(*(b"x-%d: y" % number for number in range(110))),
        get(b"x-large: " + b"y" * 20_000),
        b"GET /" + b"y" * 70_000,
        b"\x00\x01\r\n\r\n",
    ],
    ids=["many", "large", "a long path", "no HTTP"],
)
def test_headers_over_its_limits_are_refused(request_: bytes, server: Server) -> None:
    assert exchange(server, request_)[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.0 400 ")


@pytest.mark.parametrize("part", [b"", b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n"])
def test_a_caller_who_is_silent_before_the_end_of_the_headers_is_let_go(part: bytes, server: Server) -> None:
    began_s = time.monotonic()
    exchange(server, part)
    assert SILENCE_S - 1 < time.monotonic() - began_s < 2 * SILENCE_S


def test_a_caller_who_waits_for_an_answer_is_not_silent(server: Server) -> None:
    body = {"model": "legal", "prompt": "the permit", "max_tokens": 3000, "ignore_eos": True}
    began_s = time.monotonic()
    reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=200)
    assert time.monotonic() - began_s > SILENCE_S
    assert reply.json()["usage"]["completion_tokens"] == 3000


def test_open_to_other_machines_are_its_two_pages_of_figures_alone(server: Server) -> None:
    found = {port for _, address, port in listening(server) if not is_loopback(address)}
    assert found == {STATS, METRICS}


def test_a_client_of_ours_loses_nothing_when_a_gateway_dies(server: Server) -> None:
    assert eventually(lambda: len(processes(server, GATEWAY)) == 2, 120)
    assert lost_with_a_gateway(server) == {}


def test_callers_are_told_while_no_gateway_runs(server: Server) -> None:
    assert eventually(lambda: len(processes(server, GATEWAY)) == 2, 120)
    for gateway in processes(server, GATEWAY):
        gateway.kill()
    seen: Counter[str] = Counter()
    ends_s = time.monotonic() + 120
    while time.monotonic() < ends_s and not seen["200"]:
        try:
            reply = httpx.post(f"{server.url}/v2/rerank", json=BODY, timeout=60)
            seen[f"{reply.status_code}" + ("" if reply.is_success else f" {reply.text[:80]}")] += 1
        except (httpx.RemoteProtocolError, httpx.ReadError):
            seen["closed"] += 1
        time.sleep(0.1)
    sys.stdout.write(f"\nno gateway: {dict(seen)}\n")
    assert set(seen) <= {"200", "closed", "500 Internal Server Error"}
    assert seen["200"]


def test_serve_starts_it_again_when_it_dies(server: Server) -> None:
    def is_up() -> bool:
        try:
            return httpx.get(f"{server.url}/ready", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    killed_s = time.monotonic()
    haproxy(server).kill()
    assert eventually(is_up, 120)
    sys.stdout.write(f"\nup again {time.monotonic() - killed_s:.1f} s after it was killed\n")


def test_a_body_that_is_slow_is_answered(server: Server) -> None:
    head = b"POST /v2/rerank HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 2\r\n\r\n"
    assert exchange(server, head, b"{", b"}", pause_s=2).startswith(b"HTTP/1.1 4")


def test_a_server_that_is_told_to_end_finishes_its_requests(server: Server) -> None:
    body = {"model": "legal", "prompt": "the permit", "max_tokens": 3000, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=200)
        time.sleep(3)
        assert not answer.done()
        started = server.descendants()
        server.process.send_signal(signal.SIGTERM)
        reply = answer.result()
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 3000
    assert server.process.wait(90) == 0
    assert running(started) == []
