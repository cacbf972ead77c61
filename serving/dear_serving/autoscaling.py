"""How many engines the work needs. Runs in Serve's controller, which gets what the replicas report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKLOG = "backlog_tokens"
"""What a replica reports: tokens that wait, or are in engines, by all gateways that it hears of."""


_PROBES = 0.1  # calls in progress, on average, that metrics and readiness make without any request


class EngineScaling:
    """An autoscaling policy for Serve: as many engines as there is work for, by its predicted tokens.

    Serve applies its bounds and delays to what this returns, and starts the first replica for a call that
    waits for one.

    Args:
        tokens_per_replica: work for one engine. It is work in progress too, so that an engine is not stopped
            while it is needed.
    """

    def __init__(self, tokens_per_replica: int) -> None:
        self._tokens = tokens_per_replica

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The number of replicas, before bounds; and no state."""
        reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        # Every replica hears of all gateways, so their reports are of the same work.
        backlog = max(reported.get(BACKLOG, {}).values(), default=0.0)
        least = 1.0 if context.total_num_requests > _PROBES else 0.0
        return max(backlog / self._tokens, least), {}
