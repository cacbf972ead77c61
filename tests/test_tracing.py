"""Spans over OpenTelemetry, sent to a real collector, to a closed port and to one that says nothing."""

from __future__ import annotations

import logging
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dear_serving import tracing
from dear_serving.errors import UnknownModel
from dear_serving.protocol import GenerationRequest
from dear_serving.settings import TracingSettings
from dear_serving.tracing import NO_SPAN, Tracer
from tests.support.collector import Collector, collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collector() as found:
        yield found


@contextmanager
def tracer(endpoint: str, ratio: float = 0.0) -> Iterator[Tracer]:
    made = Tracer(TracingSettings(endpoint=endpoint, sample_ratio=ratio), "gateway")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("headers", "ratio", "is_traced"),
    [
        (SAMPLED, 0.0, True),
        (UNSAMPLED, 1.0, False),
        ({}, 0.0, False),
        ({}, 1.0, True),
        ({"traceparent": "nonsense"}, 1.0, True),
        ({"traceparent": "nonsense"}, 0.0, False),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, 0.0, False),
    ],
)
def test_the_callers_decision_holds_and_else_the_ratio_decides(
    headers: dict[str, str], ratio: float, is_traced: bool
) -> None:
    with tracer("http://127.0.0.1:1", ratio) as made:
        assert (made.begin("request", headers) is not NO_SPAN) == is_traced


def test_spans_hang_on_the_one_that_is_current(collecting: Collector) -> None:
    with tracer(collecting.url) as made:
        with made.begin("request", SAMPLED, tenant="t") as request:
            with tracing.span("window", documents=5) as window:
                waiting = tracing.span("turn")
                waiting.event("retry", replica="r1", reason=None)
                waiting.end()
                waiting.end()
            carried = pickle.loads(
                pickle.dumps(GenerationRequest([1], 1, None, "r", trace_headers=window.headers))
            )
            with tracing.span("call", "client"):
                pass
        with made.begin("in the engine", carried.trace_headers):
            pass
        assert request.trace_id == TRACE
        assert tracing.span("after") is NO_SPAN
    assert collecting.tree(TRACE) == {"request": {"call": {}, "window": {"in the engine": {}, "turn": {}}}}
    by_name = {span.name: span for span in collecting.of(TRACE)}
    assert by_name["request"].parent_id == PARENT
    assert by_name["request"].attributes == {"dear.tenant": "t"}
    assert by_name["window"].attributes == {"dear.documents": 5}
    assert by_name["turn"].events == [("retry", {"dear.replica": "r1"})]
    assert {span.service for span in collecting.of(TRACE)} == {"dear-gateway"}
    assert carried.trace_headers["tracestate"] == "vendor=1"


def test_a_failure_has_a_code_and_no_message(collecting: Collector) -> None:
    with tracer(collecting.url) as made, made.begin("request", SAMPLED):
        for error in (ValueError("the text of a caller"), UnknownModel("the text of a caller")):
            with pytest.raises(type(error)), tracing.span("work"):
                raise error
    failed = [span for span in collecting.of(TRACE) if span.name == "work"]
    assert [span.is_error for span in failed] == [True, True]
    assert [span.attributes["error.type"] for span in failed] == ["ValueError", "model_not_found"]
    assert b"caller" not in b"".join(collecting.bodies)


def test_where_nothing_is_traced_nothing_is_made() -> None:
    with tracing.span("window", documents=5) as window:
        assert window is NO_SPAN
        window.set(tokens=1)
        window.event("retry")
        window.fail(ValueError())
        assert tracing.span("turn") is NO_SPAN
        assert window.headers is window.trace_id is None
    assert tracing.tracer(TracingSettings(), "gateway") is None


def test_with_tracing_off_opentelemetry_is_not_loaded() -> None:
    code = (
        "import sys; from dear_serving import tracing; from dear_serving.settings import TracingSettings\n"
        "assert tracing.tracer(TracingSettings(), 'gateway') is None\n"
        "with tracing.span('x', tokens=1) as span: span.set(tokens=2)\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_collector_that_is_down_is_one_line_and_holds_up_nobody(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setattr(tracing, "_EXPORT_S", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "silent":
            taken.listen(128)
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with caplog.at_level(logging.INFO):
            made = Tracer(TracingSettings(endpoint=endpoint), "gateway")
            until_s = time.monotonic() + 4
            begun = 0
            while time.monotonic() < until_s:
                for _ in range(100):
                    with made.begin("request", SAMPLED):
                        begun += 1
                time.sleep(0.05)
            assert begun > 2048  # more than the queue holds
            stopping_s = time.monotonic()
            made.close()
            assert time.monotonic() - stopping_s < 5
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{endpoint}/v1/traces takes no traces; they are dropped until it does"]


def test_a_collector_that_comes_back_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collector() as found, tracer(found.url) as made, caplog.at_level(logging.INFO):
        found.refuses = True
        for _ in range(2):
            with made.begin("lost", SAMPLED):
                pass
            time.sleep(0.3)
        found.refuses = False
        until_s = time.monotonic() + 30
        while not found.of(TRACE):
            assert time.monotonic() < until_s
            with made.begin("found", SAMPLED):
                pass
            time.sleep(0.1)
        time.sleep(0.3)
    url = f"{found.url}/v1/traces"
    assert [record.getMessage() for record in caplog.records] == [
        f"{url} takes no traces; they are dropped until it does",
        f"{url} takes traces again",
    ]
