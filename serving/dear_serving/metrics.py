"""Every metric of the gateway: name, labels and unit in one place."""

from __future__ import annotations

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from dear_serving.types import Ranking

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Prometheus metrics of one gateway replica.

    ``model`` is a configured name and ``tenant`` a registered one, never a caller's text.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dear_requests",
            "Requests answered.",
            ("route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "dear_request_seconds",
            "Wall time from the request's arrival at the gateway to the end of its reply, seconds.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("dear_requests_in_flight", "Requests being worked on.", registry=self.registry)
        self.tenant_requests = Counter(
            "dear_tenant_requests",
            "Requests by tenant and what became of them.",
            ("tenant", "outcome"),
            registry=self.registry,
        )
        self.tenant_tokens = Counter(
            "dear_tenant_tokens",
            "Tokens of a tenant's ranked windows.",
            ("tenant", "kind"),
            registry=self.registry,
        )
        self.queued_tokens = Gauge(
            "dear_queued_tokens",
            "Predicted tokens of the windows that wait or are in the engines.",
            registry=self.registry,
        )
        self.windows = Counter("dear_windows", "Windows ranked.", ("model",), registry=self.registry)
        self.tokens = Counter(
            "dear_tokens", "Tokens of ranked windows.", ("model", "kind"), registry=self.registry
        )
        self.repairs = Counter(
            "dear_repairs",
            "Mended places in models' answers.",
            ("model", "kind"),
            registry=self.registry,
        )

    def observe_ranking(self, model: str, tenant: str, ranking: Ranking) -> None:
        """Count one finished ranking."""
        self.tenant_tokens.labels(tenant, "prompt").inc(ranking.usage.prompt_tokens)
        self.tenant_tokens.labels(tenant, "completion").inc(ranking.usage.completion_tokens)
        self.windows.labels(model).inc(ranking.windows)
        self.tokens.labels(model, "prompt").inc(ranking.usage.prompt_tokens)
        self.tokens.labels(model, "completion").inc(ranking.usage.completion_tokens)
        for kind in ("repeated", "missing", "out_of_range", "unparseable"):
            self.repairs.labels(model, kind).inc(getattr(ranking.repairs, kind))

    def render(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self.registry).decode()


class EngineMetrics:
    """Prometheus metrics of one engine replica, beside vLLM's own in the process-wide registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.resumable = Gauge(
            "dear_decoder_resumable",
            "1 while a window is one request to vLLM, 0 while every choice is one.",
            registry=registry,
        )
        self.self_check_failures = Counter(
            "dear_decoder_self_check_failures",
            "Starts at which the two ways to decode a window disagreed.",
            registry=registry,
        )
