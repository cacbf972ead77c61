"""Every metric of gateways and engines: name, labels and unit in one place.

They are counted in registries of prometheus_client. ``metrics_export`` copies these to Ray, ``http.health``
shows them added up.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, get_args

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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from dear_serving.errors import RequestError
from dear_serving.types import Decoding, Ranking

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_MOST_TENANTS = 1000
_WATCH_S = 0.05
_RETRY_REASONS = ("died", "silent", "failed", "unavailable", "refused")
Kind = Literal["window", "text"]
_SAME_IN_ALL = (
    "dear_adapter_swaps",
    "dear_engines",
    "dear_engines_least",
    "dear_queued_tokens_most",
    "dear_tenant_weight",
)
"""Of these every gateway knows the whole; of the others it knows its part."""

Page = list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]
"""Metrics as they travel between gateways: name, type, help, and the samples' names, labels and values."""


class Load(NamedTuple):
    """A tenant's weight, and its cost that waits in a gateway and that is in the engines."""

    weight: float
    waiting: int
    running: int


class StorageMetrics:
    """How fast a process reaches what all processes share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry_seconds = Histogram(
            "dear_registry_seconds",
            "Transactions of the registry by outcome (ok, failed), with the wait for a connection, seconds.",
            ("outcome",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.store_seconds = Histogram(
            "dear_store_seconds",
            "Copies of an adapter from (read) or to (write) the store, by outcome (ok, failed), seconds.",
            ("operation", "outcome"),
            buckets=_SECONDS,
            registry=registry,
        )
        for outcome in ("ok", "failed"):
            self.registry_seconds.labels(outcome)

    def registry_took(self, seconds: float, is_ok: bool) -> None:
        """Count a transaction."""
        self.registry_seconds.labels("ok" if is_ok else "failed").observe(seconds)

    def store_took(self, operation: str, seconds: float, is_ok: bool) -> None:
        """Count a copy; ``operation`` is ``read`` or ``write``."""
        self.store_seconds.labels(operation, "ok" if is_ok else "failed").observe(seconds)


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
        self.storage = StorageMetrics(self.registry)
        self.requests = Counter(
            "dear_requests",
            "Requests answered.",
            ("route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "dear_request_seconds",
            "Time from a request's arrival to the end of its reply, by route and outcome, seconds.",
            ("route", "outcome"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.admission_seconds = Histogram(
            "dear_admission_seconds",
            "Time from a request's arrival until it is admitted: key, body, prompts, budgets; seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.turn_seconds = Histogram(
            "dear_turn_seconds",
            "Time that a window or text waits in the gateway for its tenant's turn, seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_rank_seconds = Histogram(
            "dear_first_rank_seconds",
            "Time from the arrival of a streamed rerank until its first rank is decided, seconds.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "dear_refusals",
            "Requests that got an error, by status and code.",
            ("status", "code"),
            registry=self.registry,
        )
        for error in _request_errors(RequestError):
            self.refusals.labels(str(error.status), _code(error))  # from 0, or the first would be missed
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
        self.queued_tokens_most = Gauge(
            "dear_queued_tokens_most",
            "The most of it that all gateways together take on.",
            registry=self.registry,
        )
        self.engines = Gauge(
            "dear_engines", "Engine replicas that run and are ready.", registry=self.registry
        )
        self.engines_least = Gauge(
            "dear_engines_least",
            "Engine replicas that should run at least, by the settings.",
            registry=self.registry,
        )
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
        for reason in _RETRY_REASONS:
            self.retries.labels(reason)
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

    async def watch_loop(self) -> None:
        """Measure how long the event loop is blocked, until cancelled."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(_WATCH_S)
            self.loop_blocked_seconds.observe(max(0.0, time.monotonic() - began_s - _WATCH_S))

    def watch(
        self,
        cost: Callable[[], int],
        engines: Callable[[], int | None],
        loads: Callable[[], Mapping[str, Load]],
    ) -> None:
        """Show what is true when the metrics are read.

        Args:
            cost: of all that waits or is in the engines.
            engines: how many run; None: not known.
            loads: of the tenants that have work here.
        """
        self.queued_tokens.set_function(cost)
        self.engines.set_function(lambda: math.nan if (count := engines()) is None else count)
        self.registry.register(_Loads(loads, self._tenant))

    def count_error(self, error: RequestError) -> None:
        """Count a request that got an error."""
        self.refusals.labels(str(error.status), _code(type(error))).inc()

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

    def _tenant(self, tenant: str) -> str:
        if len(self._tenants) < _MOST_TENANTS:
            self._tenants.add(tenant)
        return tenant if tenant in self._tenants else "others"

    def page(self, tenant: str | None = None) -> Page:
        """All series of this gateway, or those of one tenant."""
        return [
            (one.name, one.type, one.documentation, samples)
            for one in self.registry.collect()
            if (
                samples := [
                    (sample.name, sample.labels, sample.value)
                    for sample in one.samples
                    if tenant is None or sample.labels.get("tenant") == tenant
                ]
            )
        ]


class _Loads(Collector):
    """What the tenants have in a gateway and in the engines by way of it."""

    def __init__(self, loads: Callable[[], Mapping[str, Load]], name_of: Callable[[str], str]) -> None:
        self._loads = loads
        self._name_of = name_of

    def collect(self) -> Iterator[Metric]:
        weights = GaugeMetricFamily(
            "dear_tenant_weight", "Weights of tenants that have work.", labels=["tenant"]
        )
        tokens = GaugeMetricFamily(
            "dear_tenant_tokens",
            "Cost of a tenant's work that waits for its turn or is in the engines, in tokens of a prompt.",
            labels=["tenant", "state"],
        )
        weight: dict[str, float] = {}
        cost: dict[tuple[str, str], int] = {}
        for tenant, load in self._loads().items():
            name = self._name_of(tenant)
            weight[name] = weight.get(name, 0.0) + load.weight
            for state, tenants_cost in (("waiting", load.waiting), ("running", load.running)):
                cost[name, state] = cost.get((name, state), 0) + tenants_cost
        for name, value in weight.items():
            weights.add_metric([name], value)
        for labels, value in cost.items():
            tokens.add_metric(labels, value)
        yield from (weights, tokens)


def _request_errors(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _request_errors(one)


def _code(error: type[RequestError]) -> str:
    return error.code or "invalid_request"


def count_gateways(running: int, answered: int) -> str:
    """How many gateways there are, and how many of them are in a text."""
    return _text(
        (
            GaugeMetricFamily("dear_gateways", "Gateways that run.", running),
            GaugeMetricFamily(
                "dear_gateways_answered",
                "Gateways whose metrics are in this text; others are late.",
                answered,
            ),
        )
    )


def add_up(pages: Iterable[Page]) -> str:
    """The metrics of several gateways as one text: counters, histograms and parts of a whole are added."""
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for name, kind, documentation, samples in page:
            merged.setdefault(name, Metric(name, documentation, kind))
            found = values.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                before = found.get(key, math.nan)
                if math.isnan(before):
                    found[key] = value
                elif not math.isnan(value):  # what is not known hides nobody's number
                    found[key] = max(before, value) if name in _SAME_IN_ALL else before + value
    for name, metric in merged.items():
        metric.samples = [
            Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()
        ]
    return _text(merged.values())


def render(registry: CollectorRegistry, replica: str) -> str:
    """A registry as text, each series labelled with the replica."""
    metrics = []
    for metric in registry.collect():
        metric.samples = [one._replace(labels={**one.labels, "replica": replica}) for one in metric.samples]
        metrics.append(metric)
    return _text(metrics)


def join(texts: Iterable[str]) -> str:
    """Texts of several processes as one, in which each metric's help and type come once."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for text in texts:
        for part in re.split(r"^(?=# HELP )", text, flags=re.MULTILINE):
            lines = part.splitlines(keepends=True)
            if not lines:
                continue
            name = lines[0].split(" ", 3)[2] if lines[0].startswith("# HELP ") else ""
            comments, samples = found.setdefault(name, ([], []))
            is_first = not comments
            for line in lines:
                if not line.startswith("#"):
                    samples.append(line)
                elif is_first:
                    comments.append(line)
    return "".join(line for comments, samples in found.values() for line in (*comments, *samples))


class _Ready(Collector):
    """Metrics that are collected already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _text(metrics: Iterable[Metric]) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Ready(list(metrics)))
    return generate_latest(registry).decode()


class EngineMetrics:
    """Prometheus metrics of one engine replica, beside vLLM's own in the process-wide registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self.storage = StorageMetrics(registry)
        self.queue_seconds = Histogram(
            "dear_engine_queue_seconds",
            "Time that a window or text waits in a replica, for cache memory and for vLLM; seconds.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.prefill_seconds = Histogram(
            "dear_prefill_seconds",
            "Time from when vLLM begins with a window or text until its first step is done, seconds.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "dear_decode_seconds",
            "Time from a window's or text's first step to its last, seconds.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.load_failures = Counter(
            "dear_adapter_load_failures",
            "Adapters that this replica gave up loading.",
            registry=registry,
        )
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

    def took(self, kind: Kind, queue_s: float, prefill_s: float, decode_s: float) -> None:
        """Count a window or a text that is done, by the seconds of its stages."""
        self.queue_seconds.labels(kind).observe(max(0.0, queue_s))
        self.prefill_seconds.labels(kind).observe(max(0.0, prefill_s))
        self.decode_seconds.labels(kind).observe(max(0.0, decode_s))

    def watch(self, outcomes: Callable[[], Mapping[str, str | None]]) -> None:
        """Show which revisions are held: ``outcomes`` gives None, or why a revision could not be loaded."""
        self.registry.register(_Held(outcomes))


class _Held(Collector):
    """Which revisions a replica holds."""

    def __init__(self, outcomes: Callable[[], Mapping[str, str | None]]) -> None:
        self._outcomes = outcomes

    def collect(self) -> Iterator[Metric]:
        held = GaugeMetricFamily(
            "dear_adapter_held",
            "1 where an engine replica holds a revision, 0 where it could not load it.",
            labels=["revision"],
        )
        for revision, reason in self._outcomes().items():
            held.add_metric([revision], reason is None)
        yield held
