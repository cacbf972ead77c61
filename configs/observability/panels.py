"""What the dashboard shows: rows of panels, each with its PromQL."""

from __future__ import annotations

from dataclasses import dataclass

from configs.observability.names import CALLS, exported

_WINDOW = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, or one number: legend -> expression. ``about`` names the metrics that explain it."""

    title: str
    unit: str
    lines: dict[str, str]
    about: tuple[str, ...]
    is_number: bool = False
    most: float | None = None


def _rate(name: str, by: str = "", where: str = "") -> str:
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}(rate({exported(name)}{where}[{_WINDOW}]))"


def _quantile(name: str, quantile: float, where: str = "") -> str:
    buckets = f"rate({exported(f'{name}_bucket')}{where}[{_WINDOW}])"
    return f"histogram_quantile({quantile}, sum by (le) ({buckets}))"


def _over(name: str, function: str = "sum", by: str = "", where: str = "") -> str:
    return f"{function}{f' by ({by}) ' if by else ''}({exported(name)}{where})"


def _lines(title: str, unit: str, lines: dict[str, str], *about: str, most: float | None = None) -> Panel:
    return Panel(title, unit, lines, about, most=most)


def _number(title: str, unit: str, expression: str, *about: str) -> Panel:
    return Panel(title, unit, {"": expression}, about, is_number=True)


_RUNNING, _WAITING = '{state="running"}', '{state="waiting"}'
_ACCEPTED, _FAILED = '{outcome="accepted"}', '{outcome="failed"}'
_ANSWERED = '{outcome="served",route=~".*rerank"}'
_REQUESTS = "dear_request_seconds"

ROWS: dict[str, list[Panel]] = {
    "Fleet": [
        _number("Engines ready", "short", _over("dear_engines", "max"), "dear_engines"),
        _number("Engines wanted at least", "short", _over("dear_engines_least", "max"), "dear_engines_least"),
        _number("Gateways", "short", f"count({exported('dear_requests_in_flight')})"),
        _lines(
            "Requests by outcome",
            "reqps",
            {"{{outcome}}": _rate(f"{_REQUESTS}_count", "outcome", f"{{{CALLS}}}")},
            _REQUESTS,
        ),
        _lines(
            "Rerank, whole",
            "s",
            {f"p{round(100 * q)}": _quantile(_REQUESTS, q, _ANSWERED) for q in (0.5, 0.95, 0.99)},
            _REQUESTS,
        ),
        _lines(
            "Stages, 95 % of requests within",
            "s",
            {
                "admission": _quantile("dear_admission_seconds", 0.95),
                "fair turn": _quantile("dear_turn_seconds", 0.95),
                "engine queue": _quantile("dear_engine_queue_seconds", 0.95),
                "prefill": _quantile("dear_prefill_seconds", 0.95),
                "decode": _quantile("dear_decode_seconds", 0.95),
                "first rank": _quantile("dear_first_rank_seconds", 0.95),
            },
            "dear_admission_seconds",
            "dear_turn_seconds",
            "dear_engine_queue_seconds",
            "dear_prefill_seconds",
            "dear_decode_seconds",
            "dear_first_rank_seconds",
        ),
        _lines(
            "Errors by code",
            "reqps",
            {"{{status}} {{code}}": f"{_rate('dear_refusals_total', 'status, code')} > 0"},
            "dear_refusals_total",
        ),
        _lines(
            "Requests by route and status",
            "reqps",
            {"{{route}} {{status}}": f"{_rate('dear_requests_total', 'route, status')} > 0"},
            "dear_requests_total",
        ),
        _lines(
            "Requests in progress",
            "short",
            {"in work": _over("dear_requests_in_flight"), "body arrives": _over("dear_bodies_arriving")},
            "dear_requests_in_flight",
            "dear_bodies_arriving",
        ),
        _lines(
            "Saturation: work ahead of what is taken on",
            "percentunit",
            {"": f"{_over('dear_queued_tokens')} / {_over('dear_queued_tokens_most', 'max')}"},
            "dear_queued_tokens",
            "dear_queued_tokens_most",
        ),
        _lines(
            "Registry and store",
            "s",
            {
                "registry p95": _quantile("dear_registry_seconds", 0.95),
                "store p95": _quantile("dear_store_seconds", 0.95),
                "registry failures a second": _rate("dear_registry_seconds_count", "", _FAILED),
            },
            "dear_registry_seconds",
            "dear_store_seconds",
        ),
        _lines(
            "Event loop of gateways blocked",
            "s",
            {f"p{round(100 * q)}": _quantile("dear_loop_blocked_seconds", q) for q in (0.5, 0.99)},
            "dear_loop_blocked_seconds",
        ),
    ],
    "Tenants": [
        _lines(
            "Requests by tenant and outcome",
            "reqps",
            {"{{tenant}} {{outcome}}": f"{_rate('dear_tenant_requests_total', 'tenant, outcome')} > 0"},
            "dear_tenant_requests_total",
        ),
        _lines(
            "Saturation: share of the engines over share by weight",
            "percentunit",
            {
                "{{tenant}}": (
                    f"{_over('dear_tenant_tokens', by='tenant', where=_RUNNING)}"
                    f" / scalar({_over('dear_tenant_tokens', where=_RUNNING)})"
                    f" / ({_over('dear_tenant_weight', 'max', 'tenant')}"
                    f" / scalar(sum({_over('dear_tenant_weight', 'max', 'tenant')})))"
                )
            },
            "dear_tenant_tokens",
            "dear_tenant_weight",
        ),
        _lines(
            "Work that waits for its turn",
            "short",
            {"{{tenant}}": _over("dear_tenant_tokens", by="tenant", where=_WAITING)},
            "dear_tenant_tokens",
        ),
        _lines(
            "Windows ranked",
            "short",
            {"{{tenant}}": _rate("dear_windows_total", "tenant")},
            "dear_windows_total",
        ),
        _lines(
            "Tokens a second",
            "short",
            {"{{tenant}} {{kind}}": _rate("dear_tokens_total", "tenant, kind")},
            "dear_tokens_total",
        ),
        _lines(
            "Rankings: seconds of queue and engine, a second",
            "short",
            {
                "{{tenant}} queue": _rate("dear_queue_seconds_total", "tenant"),
                "{{tenant}} engine": _rate("dear_engine_seconds_total", "tenant"),
            },
            "dear_queue_seconds_total",
            "dear_engine_seconds_total",
        ),
    ],
    "Adapters": [
        _lines(
            "Requests by revision and kind",
            "reqps",
            {"{{revision}} {{kind}}": _rate("dear_model_requests_total", "revision, kind")},
            "dear_model_requests_total",
        ),
        _lines(
            "Engines that hold a revision",
            "short",
            {"{{revision}}": _over("dear_adapter_held", by="revision")},
            "dear_adapter_held",
        ),
        _lines(
            "Swaps, and loads that failed, since the start",
            "short",
            {
                "{{model}} swapped": _over(
                    "dear_adapter_swaps_total", "max", "model"
                ),  # every gateway sees each
                "loads failed": _over("dear_adapter_load_failures_total"),
            },
            "dear_adapter_swaps_total",
            "dear_adapter_load_failures_total",
        ),
        _lines(
            "Repairs of answers",
            "short",
            {"{{kind}}": _rate("dear_repairs_total", "kind")},
            "dear_repairs_total",
        ),
        _lines(
            "Drafted tokens that held",
            "percentunit",
            {
                "{{revision}}": (
                    f"{_rate('dear_draft_tokens_total', 'revision', _ACCEPTED)}"
                    f" / {_rate('dear_draft_tokens_total', 'revision')}"
                )
            },
            "dear_draft_tokens_total",
            most=1.0,
        ),
        _lines(
            "Forward passes a window",
            "short",
            {
                "{{revision}}": (
                    f"{_rate('dear_forward_passes_total', 'revision')}"
                    f" / {_rate('dear_windows_total', 'revision')}"
                )
            },
            "dear_forward_passes_total",
            "dear_windows_total",
        ),
    ],
    "Engine": [
        _lines(
            "KV cache in use",
            "percentunit",
            {"{{replica}}": _over("vllm:kv_cache_usage_perc", "max", "replica")},
            "vllm:kv_cache_usage_perc",
            most=1.0,
        ),
        _lines(
            "Requests in vLLM",
            "short",
            {
                "{{replica}} running": _over("vllm:num_requests_running", "sum", "replica"),
                "{{replica}} waiting": _over("vllm:num_requests_waiting", "sum", "replica"),
            },
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
        ),
        _lines(
            "Tokens a second",
            "short",
            {
                "{{replica}} prompt": _rate("vllm:prompt_tokens_total", "replica"),
                "{{replica}} given": _rate("vllm:generation_tokens_total", "replica"),
            },
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ),
        _lines(
            "Prefix cache: tokens found",
            "percentunit",
            {
                "{{replica}}": (
                    f"{_rate('vllm:prefix_cache_hits_total', 'replica')}"
                    f" / {_rate('vllm:prefix_cache_queries_total', 'replica')}"
                )
            },
            "vllm:prefix_cache_hits_total",
            "vllm:prefix_cache_queries_total",
            most=1.0,
        ),
        _lines(
            "Windows: queue, prefill, decode by engine",
            "s",
            {
                f"{{{{replica}}}} {stage}": (
                    f"{_rate(f'dear_{name}_seconds_sum', 'replica')}"
                    f" / {_rate(f'dear_{name}_seconds_count', 'replica')}"
                )
                for stage, name in (("queue", "engine_queue"), ("prefill", "prefill"), ("decode", "decode"))
            },
            "dear_engine_queue_seconds",
            "dear_prefill_seconds",
            "dear_decode_seconds",
        ),
        _lines(
            "Calls sent to another engine, engines left out",
            "short",
            {
                "{{reason}}": _rate("dear_engine_retries_total", "reason"),
                "left out": _rate("dear_engine_ejections_total"),
            },
            "dear_engine_retries_total",
            "dear_engine_ejections_total",
        ),
        _lines(
            "Engines by way of decoding",
            "short",
            {"{{dear_decoder}}": _over("dear_decoder", by="dear_decoder")},
            "dear_decoder",
        ),
        _lines(
            "Faults of the decoder",
            "short",
            {
                "stalled windows": _over("dear_decoder_stalled_windows_total"),
                "checks failed at start": _over("dear_decoder_self_check_failures_total"),
            },
            "dear_decoder_stalled_windows_total",
            "dear_decoder_self_check_failures_total",
        ),
        _lines(
            "Preemptions",
            "short",
            {"{{replica}}": _rate("vllm:num_preemptions_total", "replica")},
            "vllm:num_preemptions_total",
        ),
    ],
}
"""Panels by the name of their row, in order; a row of numbers is lower."""
