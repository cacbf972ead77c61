"""Traces over OpenTelemetry: what a request waits for, from its caller to vLLM.

A gateway begins a request's span, as the caller's ``traceparent`` or the sampling ratio decides. Spans inside
hang on the one that a context variable holds, and the messages to engines carry its context. A request that
is not sampled costs that decision and a look at the variable at each place; with tracing off, only the look.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Literal, Self

from dear_serving import __version__
from dear_serving.errors import RequestError
from dear_serving.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

Kind = Literal["internal", "client", "server"]

TRACE_HEADERS = ("traceparent", "tracestate")
"""Names of the headers that carry a trace's context (W3C Trace Context)."""

_EXPORT_S = 5.0
_CLOSE_S = 2.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NAMES = {
    # Those of OpenTelemetry's semantic conventions; all others are ours.
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "error": "error.type",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}

_Value = str | int | float | bool | None


class NoSpan:
    """Takes the place of a span where a request is not traced."""

    headers: Mapping[str, str] | None = None
    """The context for whoever does the work: for ``Tracer.begin`` and for vLLM."""

    trace_id: str | None = None

    def set(self, **values: _Value) -> None:
        """Say something of the work; None says nothing. Never a caller's text."""

    def event(self, name: str, **values: _Value) -> None:
        """Something happened now."""

    def fail(self, error: BaseException | str) -> None:
        """The work failed; see ``error_code``."""

    def end(self) -> None:
        """The work is over; only the first time counts."""

    def child(self, name: str, kind: Kind, values: Mapping[str, _Value]) -> NoSpan:
        """A part of the work, which begins now."""
        return self

    def __enter__(self) -> Self:
        """Make it the one that ``span`` hangs others on, until the block ends; not across a yield."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        pass


class Span(NoSpan):
    """A piece of work of a traced request."""

    __slots__ = ("_ended", "_otel", "_token", "_tracer")

    def __init__(self, otel: trace.Span, tracer: trace.Tracer, values: Mapping[str, _Value]) -> None:
        self._otel = otel
        self._tracer = tracer
        self._ended = False
        self._token: Token[NoSpan] | None = None
        self.set(**values)

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """See NoSpan."""
        context = self._otel.get_span_context()
        headers = {
            "traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        }
        if context.trace_state:
            headers["tracestate"] = context.trace_state.to_header()
        return headers

    @property
    def trace_id(self) -> str:  # type: ignore[override]
        """32 hexadecimal digits."""
        return f"{self._otel.get_span_context().trace_id:032x}"

    def set(self, **values: _Value) -> None:
        """See NoSpan."""
        self._otel.set_attributes(_attributes(values))

    def event(self, name: str, **values: _Value) -> None:
        """See NoSpan."""
        self._otel.add_event(name, _attributes(values))

    def fail(self, error: BaseException | str) -> None:
        """See NoSpan."""
        from opentelemetry.trace import StatusCode

        code = error if isinstance(error, str) else error_code(error)
        self.set(error=code)
        self._otel.set_status(StatusCode.ERROR, code)

    def end(self) -> None:
        """See NoSpan."""
        if not self._ended:
            self._ended = True
            self._otel.end()

    def child(self, name: str, kind: Kind, values: Mapping[str, _Value]) -> Span:
        """See NoSpan."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        parent = set_span_in_context(self._otel)
        otel = self._tracer.start_span(name, parent, SpanKind[kind.upper()])
        return Span(otel, self._tracer, values)

    def __enter__(self) -> Self:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._token is not None:
            _CURRENT.reset(self._token)
        if error is not None:
            self.fail(error)
        self.end()


NO_SPAN = NoSpan()
_CURRENT: ContextVar[NoSpan] = ContextVar("span", default=NO_SPAN)


def span(name: str, kind: Kind = "internal", **values: _Value) -> NoSpan:
    """A part of what is being done now. Use it in a ``with``; or ``end`` it, where code yields meanwhile."""
    current = _CURRENT.get()
    return current if current is NO_SPAN else current.child(name, kind, values)


class Tracer:
    """Begins the spans of one process, and sends them to a collector in batches.

    A collector that does not answer costs what waits for it in a queue of a fixed length, and one line in the
    log; requests take no notice.
    """

    def __init__(self, settings: TracingSettings, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import (
            BatchSpanProcessor,
            SpanExporter,
            SpanExportResult,
        )
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        assert settings.traces_url is not None
        exporter, url = OTLPSpanExporter(settings.traces_url, timeout=_EXPORT_S), settings.traces_url
        # It logs every attempt, and vLLM has one of its own.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

        class Reporter(SpanExporter):
            """Says once that the collector is out of reach, and once that it is back."""

            is_lost = False

            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                result = exporter.export(spans)
                is_lost = result is not SpanExportResult.SUCCESS
                if is_lost and not self.is_lost:
                    logger.warning("%s takes no traces; they are dropped until it does", url)
                elif self.is_lost and not is_lost:
                    logger.warning("%s takes traces again", url)
                self.is_lost = is_lost
                return result

            def shutdown(self) -> None:
                exporter.shutdown()  # type: ignore[no-untyped-call]

        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create(
                {
                    "service.name": f"dear-{process}",
                    "service.version": __version__,
                    "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                }
            ),
            shutdown_on_exit=False,  # it may wait for half a minute
        )
        self._provider.add_span_processor(BatchSpanProcessor(Reporter()))
        self._tracer = self._provider.get_tracer("dear_serving", __version__)

    def begin(self, name: str, headers: Mapping[str, str], **values: _Value) -> NoSpan:
        """The work that a request with these headers asks for, if it is sampled.

        Args:
            headers: those of TRACE_HEADERS count. Without a valid one the ratio decides.
        """
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = Context()
        if "traceparent" in headers:
            carrier = {header: headers[header] for header in TRACE_HEADERS if header in headers}
            context = TraceContextTextMapPropagator().extract(carrier, context)
        otel = self._tracer.start_span(name, context, SpanKind.SERVER)
        return Span(otel, self._tracer, values) if otel.is_recording() else NO_SPAN

    def close(self) -> None:
        """Send what is left, for two seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)


def tracer(settings: TracingSettings, process: str) -> Tracer | None:
    """The tracer of a process (``gateway`` or ``engine``); None with tracing off."""
    return None if settings.endpoint is None else Tracer(settings, process)


def trace_id_in(headers: Mapping[str, str]) -> str | None:
    """The caller's trace id, for logs; None where there is none."""
    match = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return match[1] if match else None


def engine_variables(settings: TracingSettings) -> dict[str, str]:
    """Environment of vLLM's own tracer, in the engine's processes. It begins no trace of its own."""
    if settings.endpoint is None:
        return {}
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": str(int(_EXPORT_S)),
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": "vllm",
    }


def _attributes(values: Mapping[str, _Value]) -> dict[str, str | int | float | bool]:
    return {_NAMES.get(name, f"dear.{name}"): value for name, value in values.items() if value is not None}


def error_code(error: BaseException) -> str:
    """A code for logs and traces, or the error's class: messages may quote callers' texts."""
    known = error.code or error.type if isinstance(error, RequestError) else None
    return known or type(error).__name__
