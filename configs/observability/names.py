"""Every metric that the dashboard and the alerts may name, as Prometheus gets it from Ray's export."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from dear_serving.metrics import EngineMetrics, Load, Metrics

CALLS = 'route=~"/v[12]/.*|/rerank"'
"""Requests of callers, not those of probes and scrapes."""

VLLM = {
    "vllm:kv_cache_usage_perc": "Share of the KV cache that is in use, 0 to 1.",
    "vllm:num_requests_running": "Requests in vLLM's batch.",
    "vllm:num_requests_waiting": "Requests that wait in vLLM.",
    "vllm:prefix_cache_queries_total": "Tokens that were looked up in the prefix cache.",
    "vllm:prefix_cache_hits_total": "Tokens that were found in the prefix cache.",
    "vllm:prompt_tokens_total": "Tokens of prompts, cached ones included.",
    "vllm:generation_tokens_total": "Tokens that vLLM gave, forced ones included.",
    "vllm:num_preemptions_total": "Requests that lost their place in the cache.",
}
"""Those of vLLM's own, with what they mean."""


def own() -> dict[str, str]:
    """The names of our metrics, as they are declared, with their help."""
    gateway, engine = Metrics(), EngineMetrics(CollectorRegistry())
    gateway.watch(lambda: 0, lambda: 1, lambda: {"default": Load(1.0, 0, 0)})
    engine.watch(lambda: {"name@digest": None})
    families = [*gateway.registry.collect(), *engine.registry.collect()]
    return {one.name + ("_total" if one.type == "counter" else ""): one.documentation for one in families}


OWN = own()


def exported(name: str) -> str:
    """The name in Ray's export.

    Raises:
        KeyError: there is no such metric.
    """
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    (OWN | VLLM)[name if name in OWN | VLLM else base]
    return "ray_" + name.replace(":", "_")


def named(expressions: Iterable[str]) -> set[str]:
    """The metrics of Ray's export that PromQL names."""
    return {name for one in expressions for name in re.findall(r"\bray_(?:dear|vllm)_\w+", one)}
