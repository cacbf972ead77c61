"""Traces and logs of a server of the test's own, with a real collector beside it."""

from __future__ import annotations

import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from dear_client import Client, Ranking, Retry
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import Server
from tests.e2e.own_server.test_survival import ENGINE, processes
from tests.support.collector import Collector, Received, collector

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

MARK = "zanzibarquokka"  # in no file but this one
KEY = "the-key-that-is-in-no-log"
PASSAGES = [f"passage {number} about parking permits {MARK}" for number in range(24)]
QUERY = f"parking permit {MARK}"
WINDOW: dict[str, Any] = {"engine call": {"engine permute": {"llm_request": {}}}, "fair turn": {}}


def settings(folder: Path, endpoint: str, **changes: Any) -> Path:
    """The CPU default with JSON logs, traced to ``endpoint`` where the caller wants it."""
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = f"{ROOT}/configs/demo/base"
    config["adapters"]["root"] = f"{ROOT}/configs/demo/adapters"
    config["logging"] = {"format": "json"}
    config["tracing"] = {"endpoint": endpoint, "sample_ratio": 0}
    config |= changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def collecting() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collecting: Collector) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("traces")
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200", "DEAR_API_KEYS": KEY}
    running = Server(settings(folder, collecting.url), folder / "output.log", environment)
    with running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as found:
        yield found


def revision_of(ranking: Ranking) -> str:
    assert ranking.details is not None
    return str(ranking.details.revision)


def traceparent(*, sampled: bool = True) -> tuple[str, str]:
    """A new trace's id, and its header."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-0{int(sampled)}"


def lines(server: Server, **wanted: object) -> list[dict[str, Any]]:
    """The JSON lines in Ray's logs that have these fields."""
    found = []
    for file in server.ray_logs().glob("worker-*.err"):
        for line in file.read_text().splitlines():
            if line.startswith("{"):
                one = json.loads(line)
                if wanted.items() <= one.items():
                    found.append(one)
    return found


def test_a_trace_goes_from_the_caller_to_vllm(client: Client, collecting: Collector) -> None:
    trace_id, header = traceparent()
    ranking = client.rerank(
        QUERY, PASSAGES, model="legal", strategy="sliding", traceparent=header, request_id="traced"
    )
    spans = collecting.wait_for(trace_id, "POST /v2/rerank")
    collecting.wait_for(trace_id, "llm_request", 2)
    collecting.wait_for(trace_id, "engine permute", 2)
    assert collecting.tree(trace_id) == {
        "POST /v2/rerank": {"admit request": {}, "admit tokens": {}, "prepare": {}, "window": WINDOW}
    }
    (request,) = (span for span in spans if span.name == "POST /v2/rerank")
    assert request.parent_id == header.split("-")[2]
    assert request.service == "dear-gateway"
    said = request.attributes
    assert said["http.response.status_code"] == 200
    assert said["dear.request_id"] == "traced"
    assert said["dear.tenant"] == "default"
    assert said["dear.model"] == "legal"
    assert said["dear.revision"] == revision_of(ranking)
    assert said["dear.strategy"] == "sliding"
    assert said["dear.documents"] == 24
    assert said["dear.windows"] == 2
    assert said["gen_ai.usage.input_tokens"] == ranking.usage.prompt_tokens
    of_engine = [span for span in collecting.of(trace_id) if span.name == "engine permute"]
    assert {span.attributes["dear.revision"] for span in of_engine} == {revision_of(ranking)}
    assert {span.service for span in of_engine} == {"dear-engine"}
    assert {span.service for span in collecting.of(trace_id) if span.name == "llm_request"} == {"vllm"}


def test_a_stream_is_one_trace(client: Client, collecting: Collector) -> None:
    trace_id, header = traceparent()
    with client.stream(QUERY, PASSAGES[:5], model="legal", traceparent=header) as ranks:
        assert len(list(ranks)) == 5
    collecting.wait_for(trace_id, "POST /v2/rerank")
    collecting.wait_for(trace_id, "llm_request")
    collecting.wait_for(trace_id, "engine permute_stream")
    window: dict[str, Any] = {"engine call": {"engine permute_stream": {"llm_request": {}}}, "fair turn": {}}
    assert collecting.tree(trace_id)["POST /v2/rerank"]["window"] == window


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_one_trace(server: Server, collecting: Collector, stream: bool) -> None:
    trace_id, header = traceparent()
    body = {
        "model": "dear-tiny",
        "messages": [{"role": "user", "content": MARK}],
        "max_tokens": 4,
        "stream": stream,
    }
    reply = httpx.post(
        f"{server.url}/v1/chat/completions",
        json=body,
        headers={"traceparent": header, "authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    assert reply.status_code == 200, reply.text
    collecting.wait_for(trace_id, "POST /v1/chat/completions")
    collecting.wait_for(trace_id, "llm_request")
    collecting.wait_for(trace_id, "engine chat")
    assert collecting.tree(trace_id) == {
        "POST /v1/chat/completions": {
            "admit request": {},
            "admit tokens": {},
            "engine call": {"engine chat": {"llm_request": {}}},
            "fair turn": {},
        }
    }


def test_what_the_caller_does_not_sample_is_not_traced(client: Client, collecting: Collector) -> None:
    before = len(collecting.spans)
    trace_id, header = traceparent(sampled=False)
    client.rerank(QUERY, PASSAGES, model="legal", traceparent=header)
    client.rerank(QUERY, PASSAGES, model="legal")  # the ratio is 0
    last_id, last = traceparent()
    client.rerank(QUERY, PASSAGES[:3], model="legal", traceparent=last)
    collecting.wait_for(last_id, "POST /v2/rerank")
    collecting.wait_for(last_id, "llm_request")
    assert collecting.of(trace_id) == []
    assert {span.trace_id for span in collecting.spans[before:]} == {last_id}


def test_a_request_is_one_line_in_the_gateway_and_one_a_call_in_the_engine(
    client: Client, server: Server, collecting: Collector
) -> None:
    trace_id, header = traceparent()
    ranking = client.rerank(
        QUERY, PASSAGES, model="legal", strategy="sliding", traceparent=header, request_id="logged"
    )
    collecting.wait_for(trace_id, "POST /v2/rerank")
    (line,) = lines(server, message="request", request_id="logged")
    assert line["process"] == "gateway"
    expected = {
        "level": "info",
        "method": "POST",
        "route": "/v2/rerank",
        "status": 200,
        "tenant": "default",
        "model": "legal",
        "revision": revision_of(ranking),
        "strategy": "sliding",
        "documents": 24,
        "windows": 2,
        "prompt_tokens": ranking.usage.prompt_tokens,
        "trace_id": trace_id,
    }
    assert line.items() >= expected.items()
    assert 0 < line["engine_ms"] < line["total_ms"]
    assert line["queue_ms"] >= 0
    for number in range(2):
        (call,) = lines(server, message="engine call", request_id=f"logged-{number}")
        assert call["process"] == "engine"
        assert call["trace_id"] == trace_id
        assert call["revision"] == revision_of(ranking)
        assert call["prompt_tokens"] > 0


def test_texts_and_keys_are_in_no_log_and_no_span(server: Server, collecting: Collector) -> None:
    """Also of requests that fail, each in its own way."""
    failing: list[tuple[str, dict[str, Any] | str, int]] = [
        ("/v2/rerank", {"query": MARK, "documents": [MARK, 5]}, 400),
        ("/v2/rerank", f'{{"query": "{MARK}", "documents": ["{MARK}"', 400),
        ("/v2/rerank", {"query": MARK, "documents": [MARK], "model": MARK}, 404),
        ("/v2/rerank", {"query": MARK * 100_000, "documents": [MARK] * 2}, 413),
        ("/v2/rerank", {"query": MARK, "documents": [MARK] * 2, "dear": {"strategy": MARK}}, 400),
        (f"/{MARK}", {"query": MARK}, 404),
        ("/v1/chat/completions", {"messages": [{"role": MARK, "content": MARK}]}, 400),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": MARK}}]}]},
            400,
        ),
        ("/v1/completions", {"prompt": MARK, "max_tokens": 4, "stop": [MARK] * 100}, 400),
        ("/v1/completions", {"prompt": f"{MARK} " * 5000, "max_tokens": 4}, 400),
        ("/v1/completions", {"prompt": MARK, "max_tokens": 4}, 200),
        ("/v1/completions", {"prompt": MARK, "max_tokens": 4, "stream": True}, 200),
        ("/v2/rerank", {"query": MARK, "documents": [MARK] * 2, "dear": {"scoring": "generate"}}, 200),
        # What vLLM itself refuses: Serve logs the tracebacks of its replicas.
        ("/v1/completions", {"prompt": f"{MARK} " * 600, "max_tokens": 4000}, 400),
    ]
    _, header = traceparent()
    headers = {"authorization": f"Bearer {KEY}", "traceparent": header, "content-type": "application/json"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
        statuses = [
            http.post(path, content=body if isinstance(body, str) else json.dumps(body)).status_code
            for path, body, _ in failing
        ]
    assert statuses == [status for _, _, status in failing]
    trace_id, last = traceparent()
    with Client(server.url, KEY) as client:
        client.rerank(QUERY, PASSAGES, traceparent=last)
    collecting.wait_for(trace_id, "POST /v2/rerank")
    collecting.wait_for(trace_id, "llm_request")
    assert lines(server, message="request", status=400, error="invalid_request_error")
    for secret in (MARK, KEY):
        assert secret not in server.output()
        assert [body for body in collecting.bodies if secret.encode() in body] == []
        files = [file for file in server.ray_logs().rglob("*") if file.is_file()]
        assert len(files) > 5
        assert [file.name for file in files if secret.encode() in file.read_bytes()] == []


def test_serve_writes_no_line_of_its_own_a_request(client: Client, server: Server) -> None:
    client.rerank(QUERY, PASSAGES[:3], request_id="once-only")
    said = [
        (file.name, line)
        for file in server.ray_logs().rglob("*")
        if file.is_file()
        for line in file.read_text(errors="replace").splitlines()
        if re.search(r"once-only\b(?!-)", line)
    ]
    assert len(said) == 1, said


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_collector_that_is_down_costs_requests_nothing(tmp_path: Path, kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "silent":
            taken.listen(128)  # connections are made, and nothing is answered
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = settings(tmp_path, endpoint, tracing={"endpoint": endpoint, "sample_ratio": 1})
        environment = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
        with Server(config, tmp_path / "output.log", environment) as server:
            with Client(server.url) as client:
                until_s, answered = time.monotonic() + 20, 0
                while time.monotonic() < until_s:
                    client.rerank("parking permit", PASSAGES[:5], model="legal")
                    answered += 1
            said = lines(server, process="gateway", level="warning")
            logs = server.ray_logs()
            assert [one["message"] for one in said] == [
                f"{endpoint}/v1/traces takes no traces; they are dropped until it does"
            ]
            everything = "".join(
                file.read_text(errors="replace") for file in logs.glob("worker-*") if file.is_file()
            )
            assert "Failed to export" not in everything
            assert "Traceback" not in everything
            assert answered > 50
            server.check_stop()


def test_a_call_that_another_engine_takes_over_says_so_in_its_trace(
    tmp_path: Path, collecting: Collector
) -> None:
    config = settings(tmp_path, collecting.url)
    data = yaml.safe_load(config.read_text())
    data["engine"]["replicas"] = 2
    config.write_text(yaml.safe_dump(data))
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    stopped = threading.Event()

    def call(client: Client) -> None:
        while not stopped.is_set():
            _, header = traceparent()
            client.rerank("parking permit", PASSAGES, strategy="joint", traceparent=header)

    with (
        Server(config, tmp_path / "output.log", environment) as server,
        Client(server.url, retry=Retry(attempts=1)) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        callers = [pool.submit(call, client) for _ in range(4)]
        time.sleep(2)
        replicas = processes(server, ENGINE)
        assert len(replicas) == 2
        replicas[0].kill()
        until_s = time.monotonic() + 60
        while not (retried := [span for span in collecting.spans if has_retry(span)]):
            assert time.monotonic() < until_s
            time.sleep(0.2)
        stopped.set()
        assert [one.result() for one in callers] == [None] * 4  # nobody noticed
        retry = retried[0]
        assert retry.attributes["dear.attempts"] == 2
        assert retry.events[0][1]["dear.reason"] == "died"
        assert retry.events[0][1]["dear.replica"] != retry.attributes["dear.replica"]
        until_s = time.monotonic() + 60
        while not any(span.parent_id == retry.span_id for span in collecting.of(retry.trace_id)):
            assert time.monotonic() < until_s, collecting.tree(retry.trace_id)
            time.sleep(0.2)


def has_retry(span: Received) -> bool:
    return any(name == "retry" for name, _ in span.events)
