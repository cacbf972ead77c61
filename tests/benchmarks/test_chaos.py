"""The harness that breaks a cluster: its figures, its machines, and two of its faults on the product."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.callers import Answer, Callers, Load
from benchmarks.chaos.cluster import make_next_release
from benchmarks.chaos.figures import figures
from benchmarks.chaos.machines import wait_for
from benchmarks.chaos.report import Outcome, table
from dear_serving import __version__
from dear_serving.process.background import free_port
from dear_serving.protocol import Backlog
from tests.conftest import ROOT

_NEEDED = ("ip", "unshare", "nsenter", "redis-server")
_can_make_machines = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, _NEEDED)),
    reason="machines need root, iproute2, util-linux and redis-server",
)


def _calls(
    first_s: int, last_s: int, cause: str = "", kind: str = "bare", taken_s: float = 0.1
) -> list[Answer]:
    """A call a second that ended then."""
    return [Answer(kind, second - taken_s, float(second), cause) for second in range(first_s, last_s + 1)]


def test_figures_count_what_was_lost_by_cause_from_the_fault_on() -> None:
    answers = _calls(1, 30) + _calls(3, 3, "503 engine_unavailable")  # this one was before the fault
    answers += _calls(12, 14, "503 engine_unavailable") + _calls(13, 13, "AnswerTimeout", "client")
    found = figures(answers, 0.0, 10.0, 30.0)
    assert (found.lost_bare, found.lost_client) == (3, 1)
    assert found.causes == {"bare: 503 engine_unavailable": 3, "client: AnswerTimeout": 1}
    assert found.requests == 21 + 4
    assert found.pause_s == pytest.approx(1.0)
    assert found.recovered_s == 6.0  # the bins of two seconds up to 16 s hold the last loss


def test_a_pause_without_any_success_and_slow_answers_are_seen() -> None:
    silent = figures(_calls(1, 9) + _calls(21, 30), 0.0, 10.0, 31.0)
    assert silent.pause_s == pytest.approx(11.0)
    assert silent.recovered_s == 10.0
    slow = figures(_calls(1, 9) + _calls(10, 17, taken_s=5.0) + _calls(18, 30), 0.0, 10.0, 31.0)
    assert (slow.lost_bare, slow.recovered_s) == (0, 8.0)


def test_what_never_recovers_says_so() -> None:
    answers = _calls(1, 9) + _calls(10, 40, "ConnectError")
    found = figures(answers, 0.0, 10.0, 40.0)
    assert found.recovered_s is None
    outcome = Outcome("head", "head lost", found, 0.0, 30.0, None, (), 8, (), (), ())
    assert "| not in 30 | not in 30 | 31 x bare: ConnectError |" in table([outcome])


class _Proxy(BaseHTTPRequestHandler):
    """Ranks every list as it comes."""

    def do_GET(self) -> None:
        self._answer(b"success")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer(json.dumps({"results": body["documents"]}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.mark.integration
def test_calls_go_to_proxies_that_are_healthy_and_each_is_made_once() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            urls = [f"http://127.0.0.1:{port}" for port in (proxy.server_port, free_port())]
            with Load(urls, [Callers("bare", 2, "key", pace_s=0.05)]) as load:
                wait_for(
                    lambda: any(answer.cause for answer in load.answers()), 30, "call to the one that is down"
                )
                wait_for(lambda: all(not a.cause for a in load.answers()[-20:]), 60, "calm")
                causes = {answer.cause for answer in load.answers()}
        finally:
            proxy.shutdown()
    assert causes == {"", "ConnectError"}


_MACHINES = """
import subprocess, sys, tempfile, time
from pathlib import Path
from benchmarks.chaos.machines import Machine, make_network, wait_for

def reaches(one, other):
    ping = f"import socket; socket.create_connection(('{other.address}', 7000), 1)"
    return not subprocess.run(one.inside([sys.executable, "-c", ping]), capture_output=True).returncode

make_network()
folder = Path(sys.argv[1])
one, other = Machine("one", 2, folder), Machine("other", 3, folder)
for machine in (one, other):
    machine.start([sys.executable, "-m", "http.server", "7000"], {})
wait_for(lambda: reaches(one, other) and reaches(other, one), 30, "connection")
one.part(other, True)
assert not reaches(one, other) and not reaches(other, one)
one.part(other, False)
wait_for(lambda: reaches(one, other), 30, "connection after parting")
one.plug(False)
assert not reaches(other, one)
one.plug(True)
wait_for(lambda: reaches(other, one), 30, "connection after unplugging")
other.kill()
assert not other.runs and not other.processes()
other.start([sys.executable, "-m", "http.server", "7000"], {})
wait_for(lambda: reaches(one, other), 30, "connection after a restart")
Path(sys.argv[1], "done").touch()
time.sleep(600)
"""


@pytest.mark.integration
def test_the_next_release_differs_and_understands_this_one(tmp_path: Path) -> None:
    make_next_release(tmp_path)
    program = (
        "import pickle, sys, dear_serving\n"
        "from dear_serving.protocol import Backlog\n"
        "print(dear_serving.__version__, pickle.loads(bytes.fromhex(sys.argv[1])))"
    )
    sent = pickle.dumps(Backlog("gateway", 5)).hex()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}/serving:{tmp_path}/client"}
    command = [sys.executable, "-c", program, sent]
    said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"1{__version__} Backlog(gateway='gateway', cost=5, since_s=0.0)"


@_can_make_machines
def test_machines_are_parted_and_joined_and_end_with_the_harness_even_when_it_is_killed(
    tmp_path: Path,
) -> None:
    outer = "import sys; from benchmarks.chaos.machines import run_apart; run_apart(sys.argv[1:])"
    command = [sys.executable, "-c", outer, sys.executable, "-c", _MACHINES, str(tmp_path)]
    harness = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline_s = time.monotonic() + 120
        while not (tmp_path / "done").exists():
            assert harness.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        started = psutil.Process(harness.pid).children(recursive=True)
        assert len(started) > 4
    finally:
        harness.send_signal(signal.SIGKILL)
        harness.wait()
    _, left = psutil.wait_procs(started, timeout=20)
    assert left == []
    assert "chaos" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


@pytest.mark.long
@pytest.mark.e2e
@pytest.mark.timeout(1200)
@_can_make_machines
def test_a_cluster_loses_a_gateway_and_the_limits_and_no_call_of_the_client(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--only", "gateway,redis-limits"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, timeout=1100, check=False)
    assert done.returncode == 0
    faults = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["faults"]
    assert [fault["name"] for fault in faults] == ["gateway", "redis-limits"]
    for fault in faults:
        assert fault["figures"]["requests"] > 50
        assert fault["figures"]["lost_client"] == 0
        assert fault["figures"]["recovered_s"] is not None
        assert fault["whole_s"] is not None
