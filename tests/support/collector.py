"""An OpenTelemetry collector in this process: takes OTLP over HTTP, and shows the spans by trace."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Event = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it was sent."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[Event]
    is_error: bool


@dataclass
class Collector:
    """What was received so far; ``bodies`` are the requests as bytes. While it ``refuses``, it takes none."""

    url: str = ""
    refuses: bool = False
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)

    def of(self, trace_id: str) -> list[Received]:
        """The spans of a trace."""
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def wait_for(self, trace_id: str, name: str, count: int = 1, timeout_s: float = 60) -> list[Received]:
        """The spans of a trace, once so many of them have a name."""
        until_s = time.monotonic() + timeout_s
        while sum(span.name == name for span in self.of(trace_id)) < count:
            assert time.monotonic() < until_s, self.tree(trace_id)
            time.sleep(0.1)
        return self.of(trace_id)

    def tree(self, trace_id: str) -> dict[str, Any]:
        """Names of the spans below each other, each name once: {"root": {"child": {}}}."""
        spans = self.of(trace_id)
        known = {span.span_id for span in spans}

        def below(parents: set[str]) -> dict[str, Any]:
            children: dict[str, set[str]] = {}
            for span in spans:
                if span.parent_id in parents:
                    children.setdefault(span.name, set()).add(span.span_id)
            return {name: below(ids) for name, ids in sorted(children.items())}

        return below({span.parent_id for span in spans} - known)


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            is_taken = self.path == "/v1/traces" and not found.refuses
            if is_taken:
                found.bodies.append(body)
                found.spans += _spans(ExportTraceServiceRequest.FromString(body))
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if is_taken else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.name,
                    service,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _attributes(span.attributes),
                    [(event.name, _attributes(event.attributes)) for event in span.events],
                    span.status.code == 2,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
