"""Every metric of the gateway: name, labels and unit in one place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping
from typing import get_args

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector

from dear_serving.types import Decoding, Ranking

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_MOST_TENANTS = 1000
_WATCH_S = 0.05


class Metrics:
    """Prometheus metrics of one gateway replica.

    The number of label values is bounded: ``tenant`` is one of the first thousand seen or ``others``; series
    of a ``revision`` are dropped when it leaves the engines. No label is free text from a caller.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._tenants: set[str] = set()
        self._revisions: set[str] = set()
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
        self.arriving = Gauge(
            "dear_bodies_arriving", "Requests whose body is not there yet.", registry=self.registry
        )
        self.tenant_requests = Counter(
            "dear_tenant_requests",
            "Requests by tenant and outcome.",
            ("tenant", "outcome"),
            registry=self.registry,
        )
        self.loop_blocked_seconds = Histogram(
            "dear_loop_blocked_seconds",
            "How much later than planned the event loop woke up, measured 20 times a second, seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queued_tokens = Gauge(
            "dear_queued_tokens",
            "Cost of what waits or is in the engines, in tokens of a prompt.",
            registry=self.registry,
        )
        self.engines = Gauge("dear_engines", "Engine replicas that run.", registry=self.registry)
        by_revision = ("tenant", "revision")
        self.model_requests = Counter(
            "dear_model_requests",
            "Requests by tenant, revision and kind of request.",
            (*by_revision, "kind"),
            registry=self.registry,
        )
        self.windows = Counter("dear_windows", "Windows ranked.", by_revision, registry=self.registry)
        self.tokens = Counter(
            "dear_tokens", "Tokens of ranked windows.", (*by_revision, "kind"), registry=self.registry
        )
        self.queue_seconds = Counter(
            "dear_queue_seconds",
            "Time that rankings waited for an engine, seconds.",
            by_revision,
            registry=self.registry,
        )
        self.engine_seconds = Counter(
            "dear_engine_seconds",
            "Time that rankings were in an engine, seconds.",
            by_revision,
            registry=self.registry,
        )
        self.passes = Counter(
            "dear_forward_passes",
            "Forward passes that chose identifiers.",
            by_revision,
            registry=self.registry,
        )
        self.drafts = Counter(
            "dear_draft_tokens",
            "Guessed and forced tokens that were verified in forward passes, by outcome.",
            (*by_revision, "outcome"),
            registry=self.registry,
        )
        self.repairs = Counter(
            "dear_repairs",
            "Repairs of models' answers, by kind.",
            (*by_revision, "kind"),
            registry=self.registry,
        )
        self.retries = Counter(
            "dear_engine_retries",
            "Calls of an engine that were sent to another one, by reason; refused: too many were.",
            ("reason",),
            registry=self.registry,
        )
        self.ejections = Counter(
            "dear_engine_ejections",
            "Times that this gateway left an engine out for a while, since it failed or did not answer.",
            registry=self.registry,
        )
        self.swaps = Counter(
            "dear_adapter_swaps",
            "Times that a name was switched to another revision.",
            ("model",),
            registry=self.registry,
        )
        self.held = Gauge(
            "dear_adapter_held",
            "1 where an engine replica holds a revision, 0 where it could not load it.",
            ("revision", "replica"),
            registry=self.registry,
        )

    async def watch_loop(self) -> None:
        """Measure how long the event loop is blocked, until cancelled."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(_WATCH_S)
            self.loop_blocked_seconds.observe(max(0.0, time.monotonic() - began_s - _WATCH_S))

    def count_request(self, tenant: str, outcome: str) -> None:
        """Count a tenant's request by its outcome."""
        self.tenant_requests.labels(self._tenant(tenant), outcome).inc()

    def count_model(self, tenant: str, revision: str, kind: str) -> None:
        """Count a request to a revision; ``kind`` is ``rerank``, ``labels`` or the OpenAI route."""
        self._revisions.add(revision)
        self.model_requests.labels(self._tenant(tenant), revision, kind).inc()

    def observe_ranking(self, tenant: str, revision: str, ranking: Ranking) -> None:
        """Count one finished ranking."""
        self._revisions.add(revision)
        labels = (self._tenant(tenant), revision)
        usage = ranking.usage
        self.windows.labels(*labels).inc(ranking.windows)
        self.tokens.labels(*labels, "prompt").inc(usage.prompt_tokens)
        self.tokens.labels(*labels, "completion").inc(usage.completion_tokens)
        self.passes.labels(*labels).inc(usage.passes)
        self.drafts.labels(*labels, "accepted").inc(usage.accepted)
        self.drafts.labels(*labels, "rejected").inc(usage.drafted - usage.accepted)
        self.queue_seconds.labels(*labels).inc(usage.queue_ms / 1e3)
        self.engine_seconds.labels(*labels).inc(usage.engine_ms / 1e3)
        for kind in ("repeated", "missing", "out_of_range", "unparseable"):
            self.repairs.labels(*labels, kind).inc(getattr(ranking.repairs, kind))

    def count_retry(self, reason: str) -> None:
        """Count a call that was sent to another engine."""
        self.retries.labels(reason).inc()

    def swapped(self, model: str) -> None:
        """Count a swap of a name to another revision."""
        self.swaps.labels(model).inc()

    def drop_all_but(self, models: Collection[str], revisions: Collection[str]) -> None:
        """Drop the series of all other names and revisions."""
        for revision in self._revisions.difference(revisions):
            for metric in (
                self.model_requests,
                self.windows,
                self.tokens,
                self.queue_seconds,
                self.engine_seconds,
                self.passes,
                self.drafts,
                self.repairs,
            ):
                metric.remove_by_labels({"revision": revision})
            self._revisions.discard(revision)
        for (model,) in [labels for labels in self.swaps._metrics if labels[0] not in models]:
            self.swaps.remove(model)

    def show_held(self, held: Mapping[str, Mapping[str, str | None]]) -> None:
        """Set ``held``: replica id -> revision -> None, or why the replica could not load it."""
        self.held.clear()
        for replica, revisions in held.items():
            for revision, reason in revisions.items():
                self.held.labels(revision, replica).set(reason is None)

    def _tenant(self, tenant: str) -> str:
        if len(self._tenants) < _MOST_TENANTS:
            self._tenants.add(tenant)
        return tenant if tenant in self._tenants else "others"

    def render(self, tenant: str | None = None) -> str:
        """Prometheus' text format: everything, or the series of one tenant."""
        registry = self.registry
        if tenant is not None:
            registry = CollectorRegistry()
            registry.register(_OfTenant(self.registry, tenant))
        return generate_latest(registry).decode()


class _OfTenant(Collector):
    """The series of a registry that are labelled with one tenant."""

    def __init__(self, registry: CollectorRegistry, tenant: str) -> None:
        self._registry = registry
        self._tenant = tenant

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if one.labels.get("tenant") == self._tenant]
            if metric.samples:
                yield metric


class EngineMetrics:
    """Prometheus metrics of one engine replica, beside vLLM's own in the process-wide registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.decoding = Enum(
            "dear_decoder",
            "How windows are decoded: drafted, resumable, or ordinary, which is several times slower.",
            states=get_args(Decoding),
            registry=registry,
        )
        self.stalled = Counter(
            "dear_decoder_stalled_windows",
            "Windows of which nothing was heard for too long; they were ranked again, choice by choice.",
            registry=registry,
        )
        self.self_check_failures = Counter(
            "dear_decoder_self_check_failures",
            "Starts at which the decoder and naive decoding disagreed, or the engine died or hung.",
            registry=registry,
        )
