"""The headers that make a call part of its caller's trace."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from dear_client import AsyncClient, Client, InvalidCall

HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CONTEXT = SpanContext(
    0x4BF92F3577B34DA6A3CE929D0E0E4736,
    0x00F067AA0BA902B7,
    is_remote=False,
    trace_flags=TraceFlags(1),
    trace_state=TraceState([("vendor", "1")]),
)
RANKING = {"id": "r", "model": "m", "results": [{"index": 0, "relevance_score": 0.5}]}


class Recorder(httpx.MockTransport):
    """Keeps the headers of what is sent."""

    def __init__(self) -> None:
        self.sent: list[httpx.Headers] = []
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request.headers)
        return httpx.Response(200, json=RANKING if request.method == "POST" else {"data": []})


def test_calls_carry_the_span_that_is_active() -> None:
    recorder = Recorder()
    with Client(transport=recorder) as client:
        with trace.use_span(NonRecordingSpan(CONTEXT)):
            client.rerank("q", ["d"])
            client.models()
            client.rerank_many([{"query": "q", "documents": ["d"]}] * 2)  # in threads of the client's
        client.rerank("q", ["d"])
    assert [headers.get("traceparent") for headers in recorder.sent] == [HEADER] * 4 + [None]
    assert [headers.get("tracestate") for headers in recorder.sent] == ["vendor=1"] * 4 + [None]


async def test_so_do_those_of_the_other_client() -> None:
    recorder = Recorder()
    async with AsyncClient(transport=recorder) as client:
        with trace.use_span(NonRecordingSpan(CONTEXT)):
            await client.rerank("q", ["d"])
            await client.rerank_many([{"query": "q", "documents": ["d"]}] * 2)
    assert [headers.get("traceparent") for headers in recorder.sent] == [HEADER] * 3


def test_a_header_of_the_callers_own_wins_and_is_in_no_body() -> None:
    recorder = Recorder()
    other = HEADER.replace("4bf9", "0000")
    with Client(transport=recorder) as client, trace.use_span(NonRecordingSpan(CONTEXT)):
        client.rerank("q", ["d"], traceparent=other)
    (headers,) = recorder.sent
    assert headers["traceparent"] == other
    assert "tracestate" not in headers


@pytest.mark.parametrize("wrong", ["", "00-1-2-3", f"{HEADER}\r\nx: y", HEADER.upper()])
def test_what_is_no_traceparent_is_refused(wrong: str) -> None:
    with Client(transport=Recorder()) as client, pytest.raises(InvalidCall, match="traceparent: "):
        client.rerank("q", ["d"], traceparent=wrong)


def test_the_client_loads_no_opentelemetry() -> None:
    code = (
        "import sys; from dear_client.calls import Calls\n"
        "assert Calls().rerank('q', ['d']).trace == {}\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
