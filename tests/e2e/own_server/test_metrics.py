"""The metrics of two gateways and an engine: on their page, and in Ray's export."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import ADMIN_KEY, BODY, Admin, Server
from tests.support.waiting import eventually
from tests.test_observability import expressions, named, rules

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

SCRAPE_TIMEOUT_S = 10.0  # a Prometheus's own
ROUTE = {"route": "/v2/rerank", "status": "200"}


@dataclass
class Scrapes:
    """What a Prometheus sees that scrapes a server from its first moment on."""

    statuses: set[int] = field(default_factory=set)
    longest_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self, url: str) -> None:
        """Scrape four times a second until ``ended``."""
        while not self.ended.wait(0.25):
            began_s = time.monotonic()
            try:
                self.statuses.add(httpx.get(f"{url}/metrics", timeout=SCRAPE_TIMEOUT_S).status_code)
            except httpx.ConnectError:  # nothing listens yet
                pass
            except httpx.HTTPError:
                self.statuses.add(0)
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)


@pytest.fixture(scope="module")
def scrapes() -> Scrapes:
    return Scrapes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scrapes: Scrapes) -> Iterator[Server]:
    """Two gateways before one engine, scraped while they start."""
    folder = tmp_path_factory.mktemp("metrics")
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    config["gateway"] = {"replicas": 2, "cpus": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    running = Server(folder / "config.yaml", folder / "output.log", {"DEAR_ADMIN_KEY": ADMIN_KEY})
    spawn = running.spawn

    def spawn_and_scrape() -> None:
        spawn()
        threading.Thread(target=scrapes.run, args=(running.url,), daemon=True).start()

    running.spawn = spawn_and_scrape  # type: ignore[method-assign]
    with running:
        scrapes.ended.set()
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def samples(url: str) -> list[Sample]:
    text = httpx.get(url, timeout=SCRAPE_TIMEOUT_S).raise_for_status().text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def total(found: list[Sample], name: str, **labels: str) -> float:
    """The sum of the samples of that name and with those labels."""
    return sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items())


def exported(server: Server) -> str:
    """Where Ray exports, as the start says it."""
    found = re.search(r"metrics of every replica at (\S+)", server.output())
    assert found is not None
    return found[1]


def test_a_scrape_during_the_start_is_a_503_or_answered(server: Server, scrapes: Scrapes) -> None:
    assert scrapes.statuses <= {200, 503}
    assert scrapes.longest_s < SCRAPE_TIMEOUT_S


def test_all_that_the_dashboard_and_the_alerts_name_is_exported(server: Server, http: httpx.Client) -> None:
    admin = Admin(server.url)
    with admin.http:
        admin.http.post("/tenants", json={"id": "acme", "weight": 2.0})
        assert admin.register("legal", "medical", activate=True).status_code < 300
    http.post("/v2/rerank", json=BODY | {"dear": {"stream": True}})
    http.post("/v2/rerank", json=BODY | {"dear": {"scoring": "generate"}})
    http.post("/v2/rerank", json=BODY | {"model": "nobody"})
    wanted = named([*expressions(), *(rule["expr"] for rule in rules())])
    assert len(wanted) > 50
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            http.post("/v2/rerank", json=BODY | {"model": "medical"})

    url = exported(server)
    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as stack:
        stack.callback(ended.set)
        for _ in range(8):
            pool.submit(work)
        missing: set[str] = set()

        def all_there() -> bool:
            nonlocal missing
            found = samples(url)
            missing = wanted - {one.name for one in found}
            return not missing

        assert eventually(all_there, 60), missing
    found = samples(url)
    for deployment, name, count in (
        ("Gateway", "ray_dear_requests_in_flight", 2),
        ("Engine", "ray_vllm_kv_cache_usage_perc", 1),
    ):
        of_replicas = [one.labels for one in found if one.name == name]
        assert {one["deployment"].partition(":")[0] for one in of_replicas} == {deployment}
        assert len({one["replica"] for one in of_replicas}) == count


def test_the_page_and_the_export_count_the_same(server: Server, http: httpx.Client) -> None:
    before = total(samples(f"{server.url}/metrics"), "dear_requests_total", **ROUTE)
    for _ in range(20):
        assert http.post("/v2/rerank", json=BODY).status_code == 200
    page = samples(f"{server.url}/metrics")
    assert total(page, "dear_requests_total", **ROUTE) == before + 20
    assert total(page, "dear_gateways") == total(page, "dear_gateways_answered") == 2
    assert total(page, "dear_engines") == total(page, "dear_engines_least") == 1
    # Both gateways had their part: it is a sum.
    url = exported(server)

    def is_same() -> bool:
        return total(samples(url), "ray_dear_requests_total", **ROUTE) == before + 20

    assert eventually(is_same, 60)
    parts = [
        one.value
        for one in samples(url)
        if one.name == "ray_dear_requests_total" and ROUTE.items() <= one.labels.items()
    ]
    assert len(parts) == 2
    # Windows that the engine had, and the engine's replica.
    engine = [one for one in page if one.name == "dear_decode_seconds_count"]
    assert {one.labels["kind"] for one in engine} == {"window", "text"}
    assert len({one.labels["replica"] for one in engine}) == 1


def test_a_gateway_that_does_not_answer_is_left_out_and_said(server: Server) -> None:
    gateway = next(one for one in server.descendants() if ":Gateway" in " ".join(one.cmdline()) + one.name())
    seen: list[tuple[float, float]] = []

    def page_of_one() -> bool:
        with contextlib.suppress(
            httpx.HTTPError
        ):  # the proxy may have given it to the one that does not answer
            page = samples(f"{server.url}/metrics")
            seen.append((total(page, "dear_gateways"), total(page, "dear_gateways_answered")))
        return (2.0, 1.0) in seen

    gateway.send_signal(signal.SIGSTOP)
    try:
        assert eventually(page_of_one, 30), seen
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # Serve may have replaced it
            gateway.send_signal(signal.SIGCONT)
    assert eventually(lambda: total(samples(f"{server.url}/metrics"), "dear_gateways_answered") == 2, 60)
