"""What the gateway says of a request: one line in its log, and spans where the caller wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from dear_serving.gateway.state import GatewayState
from dear_serving.settings import TracingSettings
from dear_serving.tracing import Tracer
from tests.conftest import LEGAL, client_of, with_rerank
from tests.support.collector import collector
from tests.support.fake_engine import FakeEngine
from tests.support.lines import Written
from tests.support.lines import written as logged

MARK = "zanzibarquokka"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "mine"}
BODY = {"model": "legal", "query": MARK, "documents": [f"{MARK} {number}" for number in range(30)]}


@pytest.fixture
def written() -> Iterator[Written]:
    """What the gateway writes."""
    with logged() as stream:
        yield stream


async def test_a_request_is_one_line(gateway: GatewayState, written: Written) -> None:
    async with client_of(gateway) as http:
        reply = await http.post("/v2/rerank", json=BODY | {"dear": {"strategy": "sliding"}}, headers=TRACED)
    (line,) = written.lines()
    usage = reply.json()["usage"]
    expected = {
        "message": "request",
        "request_id": "mine",
        "method": "POST",
        "route": "/v2/rerank",
        "status": 200,
        "tenant": "default",
        "model": "legal",
        "revision": LEGAL,
        "strategy": "sliding",
        "documents": 30,
        "windows": 2,
        "rounds": 2,
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "engine_ms": 4.0,
        "trace_id": TRACE,
    }
    assert line.items() >= expected.items()
    assert {"queue_ms", "total_ms"} <= line.keys()
    assert MARK not in written.getvalue()


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v2/rerank", BODY | {"model": MARK}, 404, "model_not_found"),
        ("/v2/rerank", BODY | {"documents": [MARK, 5]}, 400, "invalid_request_error"),
        ("/v1/chat/completions", {"messages": MARK}, 400, "invalid_request_error"),
        (f"/{MARK}", {"query": MARK}, 404, None),
    ],
)
async def test_a_refusal_is_one_line_with_its_code(
    gateway: GatewayState,
    written: Written,
    path: str,
    body: dict[str, Any],
    status: int,
    error: str | None,
) -> None:
    async with client_of(gateway) as http:
        assert (await http.post(path, json=body)).status_code == status
    (line,) = written.lines()
    assert line["status"] == status
    assert error is None or line["error"] == error
    assert MARK not in written.getvalue()


async def test_a_fault_is_logged_without_its_message_and_counts_as_500(
    gateway: GatewayState, written: Written
) -> None:
    def fault(template: str) -> Any:
        raise RuntimeError(MARK)

    broken = with_rerank(gateway, builders=fault)
    async with client_of(broken) as http:
        assert (await http.post("/v2/rerank", json=BODY, headers=TRACED)).status_code == 500
    fault_line, request_line = written.lines()
    assert fault_line["level"] == "error"
    assert fault_line["request_id"] == "mine"
    assert "RuntimeError" in fault_line["exception"]
    assert request_line.items() >= {"status": 500, "error": "server_error"}.items()
    assert MARK not in written.getvalue()
    labels = {"route": "/v2/rerank", "status": "500"}
    assert broken.metrics.registry.get_sample_value("dear_requests_total", labels) == 1.0


async def test_probes_and_files_of_a_page_that_go_well_have_no_line(
    gateway: GatewayState, engine: FakeEngine, written: Written
) -> None:
    async with client_of(gateway) as http:
        for path in ("/health", "/ready", "/metrics", "/page/0123456789abcdef/base.css"):
            assert (await http.get(path)).status_code == 200
        assert written.lines() == []
        engine.dead = True
        assert (await http.get("/ready")).status_code == 503
    assert [line["route"] for line in written.lines()] == ["/ready"]


async def test_a_stream_is_one_line_when_it_has_ended(gateway: GatewayState, written: Written) -> None:
    async with client_of(gateway) as http:
        await http.post("/v2/rerank", json=BODY | {"dear": {"stream": True}})
    (line,) = written.lines()
    assert line.items() >= {"status": 200, "documents": 30}.items()
    assert line["prompt_tokens"] > 0


async def test_a_traced_request_has_a_tree_of_spans(
    gateway: GatewayState, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    window: dict[str, Any] = {"window": {"fair turn": {}}}
    admitted: dict[str, Any] = {"admit request": {}, "admit tokens": {}}
    with collector() as found:
        tracer = Tracer(TracingSettings(endpoint=found.url, sample_ratio=0), "gateway")
        async with client_of(dataclasses.replace(gateway, tracer=tracer)) as http:
            await http.post("/v2/rerank", json=BODY, headers=TRACED)
            await http.post("/v2/rerank", json=BODY)
            await http.post("/v2/rerank", json=BODY | {"dear": {"stream": True}}, headers=TRACED)
            await http.get("/health", headers=TRACED)
            engine.dead = True
            failed = await http.post("/v2/rerank", json=BODY, headers=TRACED)
        tracer.close()
    assert failed.status_code == 503
    assert found.tree(TRACE) == {"POST /v2/rerank": {"prepare": {}} | admitted | window}
    requests = [span for span in found.spans if span.name == "POST /v2/rerank"]
    assert [span.attributes["http.response.status_code"] for span in requests] == [200, 200, 503]
    assert [span.is_error for span in requests] == [False, False, True]
    assert requests[2].attributes["error.type"] == "engine_unavailable"
    assert requests[0].attributes["dear.tenant"] == "default"
    assert MARK.encode() not in b"".join(found.bodies)
