"""Two engines and two gateways under load, while a process dies or hangs: no request is lost."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from dear_client import Client, ClientError
from tests.e2e.conftest import ADMIN_KEY, BODY, Server, core_of, processes, running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

CALLERS = 12
ENGINE, GATEWAY = "ServeReplica:dear:Engine", "ServeReplica:dear:Gateway"
CONTROLLER, HEAD = "ServeController", "gcs_server"


@pytest.fixture(scope="module")
def two_engines(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two engines and two gateways, whose processes the tests may kill: it replaces them."""
    folder = tmp_path_factory.mktemp("survival")
    data = yaml.safe_load(config.read_text())
    data["adapters"] |= {"root": str(config.parent / "adapters"), "serve": data["adapters"]["serve"][:2]}
    data["engine"]["replicas"] = 2
    data["gateway"] |= {"replicas": 2, "drain_s": 120}
    data["ranking"] = {}
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with Server(folder / "config.yaml", folder / "output.log", {"DEAR_ADMIN_KEY": ADMIN_KEY}) as server:
        yield server


class Load:
    """Callers that send one request after another and try nothing again; counts what became of them."""

    def __init__(self, url: str, client: Client | None = None) -> None:
        self.url = url
        self.client = client  # in place of callers that try nothing again
        self.seen: Counter[str] = Counter()
        self.lost_at_s: list[float] = []
        self._stopped = threading.Event()
        self._began_s = time.monotonic()

    def call(self, number: int) -> None:
        """One caller: lists whole or as a stream, or texts, until the load ends."""
        kinds = [self._rank] if self.client else [self._rank, self._rank, self._stream, self._complete]
        with httpx.Client(base_url=self.url, timeout=60) as http:
            for one in itertools.islice(itertools.cycle(kinds), number % len(kinds), None):
                if self._stopped.is_set():
                    return
                try:
                    outcome = one(http)
                except httpx.HTTPError as error:
                    outcome = f"lost: {type(error).__name__}"
                self.seen[outcome] += 1
                if outcome.startswith("lost"):
                    self.lost_at_s.append(time.monotonic() - self._began_s)
                    time.sleep(0.05)

    def _rank(self, http: httpx.Client) -> str:
        if self.client is not None:
            try:
                self.client.rerank(BODY["query"], BODY["documents"], model="legal")
            except ClientError as error:
                return f"lost: {error.message[:150]}"
            return "answered"
        reply = http.post("/v2/rerank", json=BODY | {"model": "legal"})
        return _outcome(reply.status_code, reply.text)

    def _complete(self, http: httpx.Client) -> str:
        body = {"model": "legal", "prompt": "the permit", "max_tokens": 8}
        reply = http.post("/v1/completions", json=body)
        return _outcome(reply.status_code, reply.text)

    def _stream(self, http: httpx.Client) -> str:
        body = BODY | {"model": "legal", "dear": {"stream": True}}
        with http.stream("POST", "/v2/rerank", json=body) as reply:
            text = reply.read().decode()
        begun, broken = "event: rank" in text, "event: error" in text
        return "cut after its first rank" if begun and broken else _outcome(reply.status_code, text, broken)

    @contextmanager
    def running(self) -> Iterator[Load]:
        """The callers are at work during the block."""
        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(self.call, number) for number in range(CALLERS)]
            try:
                yield self
            finally:
                self._stopped.set()
        for call in calls:
            call.result()


def _outcome(status: int, text: str, broken: bool = False) -> str:
    return "answered" if status == 200 and not broken else f"lost: {status} {text[:150]}"


def two_are_up(server: Server) -> bool:
    """Whether both engines have a living core and hold the adapters, and gateways send them requests."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    try:
        cores = [core_of(one) for one in processes(server, ENGINE)]
    except (StopIteration, psutil.Error):
        return False
    found = httpx.get(f"{server.url}/admin/v1/adapters/legal", headers=headers, timeout=30).json()
    metrics = httpx.get(f"{server.url}/metrics", headers=headers, timeout=30).text
    known = re.findall(r"^dear_engines(?:{.*})? (\d+)", metrics, re.MULTILINE)
    holds = list(found["revisions"][0]["replicas"].values())
    return len(cores) == 2 and holds == ["held", "held"] and set(known) == {"2"}


def told(load: Load, victim: str) -> dict[str, int]:
    """What was lost; prints what became of all requests."""
    lost = {outcome: count for outcome, count in load.seen.items() if outcome.startswith("lost")}
    times = load.lost_at_s or [0.0]
    sys.stdout.write(
        f"\n{victim}: {load.seen.total()} requests, lost {sum(lost.values())} over "
        f"{max(times) - min(times):.1f} s; {dict(load.seen.most_common(6))}\n"
    )
    return lost


@pytest.mark.parametrize("victim", ["core", "replica", "hanging replica"])
def test_no_request_is_lost_when_one_of_two_engines_dies(two_engines: Server, victim: str) -> None:
    server = two_engines
    assert eventually(lambda: two_are_up(server), 240)
    replica = processes(server, ENGINE)[0]
    killed = core_of(replica) if victim == "core" else replica
    load = Load(server.url)
    with load.running():
        time.sleep(8)
        before = load.seen.total()
        os.kill(killed.pid, signal.SIGSTOP if victim.startswith("hanging") else signal.SIGKILL)
        time.sleep(35)
    if victim.startswith("hanging"):
        os.kill(killed.pid, signal.SIGKILL)
    assert told(load, victim) == {}
    assert before > 20


@pytest.mark.parametrize("victim", [CONTROLLER, HEAD])
def test_requests_need_neither_serves_controller_nor_rays_head(two_engines: Server, victim: str) -> None:
    server = two_engines
    assert eventually(lambda: two_are_up(server), 240)
    (stopped,) = processes(server, victim)
    load = Load(server.url)
    with load.running():
        time.sleep(5)
        stopped.suspend()
        before = load.seen.total()
        time.sleep(15)
        during = load.seen.total() - before
        stopped.resume()
    assert told(load, f"{victim} stopped, {during} requests meanwhile") == {}
    assert during > 20


def lost_with_a_gateway(server: Server) -> dict[str, int]:
    """What callers of dear_client lose when one of two gateways is killed."""
    with Client(server.url) as client:
        load = Load(server.url, client)
        with load.running():
            time.sleep(5)
            processes(server, GATEWAY)[0].kill()
            time.sleep(20)
    return told(load, "gateway")


def test_a_client_of_ours_loses_nothing_when_a_gateway_dies(two_engines: Server) -> None:
    server = two_engines
    assert eventually(lambda: two_are_up(server) and len(processes(server, GATEWAY)) == 2, 240)
    assert lost_with_a_gateway(server) == {}


def test_a_server_that_is_told_to_end_finishes_its_requests(two_engines: Server) -> None:
    server = two_engines
    started = server.descendants()
    body = {"model": "legal", "prompt": "the permit", "max_tokens": 3000, "ignore_eos": True}
    with httpx.Client(base_url=server.url, timeout=200) as http, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, "/v1/completions", json=body)
        time.sleep(3)
        assert not answer.done()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("requests in flight are finished first")
        # Either gateway: the proxy chooses.
        seen = {httpx.get(f"{server.url}/ready", timeout=30).json()["error"]["code"] for _ in range(5)}
        assert seen == {"shutting_down"}
        assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
        reply = answer.result()
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 3000
    assert server.process.wait(60) == 0
    assert running(started) == []
