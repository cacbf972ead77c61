"""Copies a replica's metrics to Ray, whose agent on each node exports those of all its processes."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from ray.serve.metrics import Gauge

logger = logging.getLogger(__name__)

_PREFIXES = ("dear_", "vllm:")
# A process reports to the agent every ten seconds (RAY_metrics_report_interval_ms) what was set since.
_EVERY_S = 5.0


class MetricsExport:
    """Copies every series to a gauge of Ray of the same name, with ``_`` for ``:``; Ray adds ``ray_`` and the
    labels ``replica``, ``deployment`` and ``application``.

    Counters and buckets are gauges there too, which is all the same to PromQL: a copy costs nothing where
    something is counted, keeps histograms as they are (Ray's own have the sums of their buckets' middles,
    ray#64852), and ends half a minute after its process, while Ray keeps counters of dead ones.

    Args:
        collect: the metrics as they are now; called on a thread.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect
        self._gauges: dict[str, Gauge] = {}

    async def run(self) -> None:
        """Copy until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.copy)
            except Exception:  # Ray may be ending; metrics end no replica
                logger.exception("metrics could not be copied to Ray")
            await asyncio.sleep(_EVERY_S)

    def copy(self) -> None:
        """Copy once."""
        for metric in self._collect():
            if not metric.name.startswith(_PREFIXES):
                continue
            for sample in metric.samples:
                if not math.isnan(sample.value):
                    gauge = self._gauge(sample.name, metric.documentation, sample.labels)
                    gauge.set(sample.value, tags=dict(sample.labels))

    def _gauge(self, name: str, documentation: str, labels: Iterable[str]) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(
                re.sub(r"\W", "_", name), description=documentation, tag_keys=tuple(labels)
            )
        return self._gauges[name]
