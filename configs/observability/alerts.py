"""The alert rules for Prometheus, as burn rates of two objectives and as states that somebody has to mend.

Source of the burn rates: Google, The Site Reliability Workbook, chapter 5, table 5-8.
"""

from __future__ import annotations

from typing import Any

import yaml

from configs.observability.names import CALLS, exported

AVAILABILITY = 0.999
"""Share of requests that get no error of the server (5xx)."""
LATENCY, LATENCY_S = 0.99, 2.5
"""Share of answered reranks that take at most so many seconds: a bucket of dear_request_seconds."""

RUNBOOK = "serving/OPERATIONS.md"

_LEAST_RATE = 0.1
"""Requests a second that are assumed where there are fewer: one failure in a quiet night wakes nobody."""
_RERANKS = 'route=~".*rerank",outcome="served"'
_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_RATIO = "dear:slo_bad:ratio_rate"
# What burns so many times faster than the objective allows, in both windows.
_PAGE = ((14.4, "1h", "5m"), (6, "6h", "30m"))
_TICKET = ((3, "1d", "2h"), (1, "3d", "6h"))


def _rate(name: str, where: str, window: str) -> str:
    return f"sum(rate({exported(name)}{{{where}}}[{window}]))"


def _availability(window: str) -> str:
    bad = _rate("dear_request_seconds_count", f'{CALLS},outcome="failed"', window)
    every = _rate("dear_request_seconds_count", CALLS, window)
    return f"({bad} or vector(0)) / clamp_min({every}, {_LEAST_RATE})"


def _latency(window: str) -> str:
    every = _rate("dear_request_seconds_count", _RERANKS, window)
    good = _rate("dear_request_seconds_bucket", f'{_RERANKS},le="{LATENCY_S}"', window)
    return f"({every} - {good}) / clamp_min({every}, {_LEAST_RATE})"


def _records() -> list[dict[str, Any]]:
    return [
        {"record": f"{_RATIO}{window}", "expr": expression(window), "labels": {"slo": slo}}
        for slo, expression in (("availability", _availability), ("latency", _latency))
        for window in _WINDOWS
    ]


def _burns(slo: str, allowed: float, pairs: tuple[tuple[float, str, str], ...]) -> str:
    return " or ".join(
        f'({_RATIO}{long}{{slo="{slo}"}} > {factor * allowed:.5g}'
        f' and {_RATIO}{short}{{slo="{slo}"}} > {factor * allowed:.5g})'
        for factor, long, short in pairs
    )


def _alert(
    name: str, expression: str, severity: str, summary: str, section: str, wait: str | None = None
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        **({"for": wait} if wait is not None else {}),
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "runbook_url": f"{RUNBOOK}#{section}"},
    }


def _objectives() -> list[dict[str, Any]]:
    available, fast = round(1 - AVAILABILITY, 6), round(1 - LATENCY, 6)
    slow = f"reranks take longer than {LATENCY_S} s"
    return [
        _alert(
            "DearRequestsFail",
            _burns("availability", available, _PAGE),
            "page",
            f"Requests fail: the budget of {available:.1%} is gone within days.",
            "requests-fail",
        ),
        _alert(
            "DearRequestsFailSlowly",
            _burns("availability", available, _TICKET),
            "ticket",
            f"More than {available:.1%} of the requests fail over days.",
            "requests-fail",
        ),
        _alert(
            "DearReranksSlow",
            _burns("latency", fast, _PAGE),
            "page",
            f"Too many {slow}: the budget of {fast:.0%} is gone within days.",
            "reranks-are-slow",
        ),
        _alert(
            "DearReranksSlowForDays",
            _burns("latency", fast, _TICKET),
            "ticket",
            f"More than {fast:.0%} of the {slow} over days.",
            "reranks-are-slow",
        ),
    ]


def _states() -> list[dict[str, Any]]:
    engines, least = exported("dear_engines"), exported("dear_engines_least")
    transactions = exported("dear_registry_seconds_count")
    return [
        _alert(
            "DearNoGateway",
            f"absent({least})",
            "page",
            "No gateway reports: none runs, or Prometheus does not reach Ray's metrics ports.",
            "no-gateway-reports",
            "2m",
        ),
        _alert(
            "DearNoEngineReady",
            f"max({engines}) == 0 and max({least}) > 0",
            "page",
            "No engine is ready: every request is a 503.",
            "no-engine-is-ready",
            "1m",
        ),
        _alert(
            "DearEnginesDown",
            f"max({engines}) < max({least})",
            "ticket",
            "{{ $value }} engines are ready, fewer than the settings ask for.",
            "engines-are-down",
            "10m",
        ),
        _alert(
            "DearSaturated",
            f"sum({exported('dear_queued_tokens')}) / max({exported('dear_queued_tokens_most')}) > 0.8",
            "ticket",
            "The work ahead is {{ $value | humanizePercentage }} of the most; beyond it requests are a 429.",
            "the-fleet-is-saturated",
            "10m",
        ),
        _alert(
            "DearRegistryAway",
            f'sum(rate({transactions}{{outcome="failed"}}[2m])) / sum(rate({transactions}[2m])) > 0.5',
            "page",
            "The registry does not answer: new keys and admin routes are a 503.",
            "the-registry-is-away",
            "1m",
        ),
        _alert(
            "DearAdapterNotLoaded",
            f"sum(increase({exported('dear_adapter_load_failures_total')}[15m])) > 0"
            f" or min by (revision) ({exported('dear_adapter_held')}) == 0",
            "ticket",
            "An engine could not load an adapter.",
            "an-adapter-is-not-loaded",
        ),
        _alert(
            "DearDecoderFellBack",
            f"sum({exported('dear_decoder_self_check_failures_total')}) > 0",
            "ticket",
            "An engine failed its check and decodes choice by choice, several times slower.",
            "an-engine-decodes-slowly",
        ),
    ]


def to_yaml() -> str:
    """The rules as Prometheus loads them (rule_files)."""
    groups = [
        {"name": "dear-objectives-ratios", "interval": "30s", "rules": _records()},
        {"name": "dear-objectives", "rules": _objectives()},
        {"name": "dear-states", "rules": _states()},
    ]
    head = "# Made by python -m configs.observability (make dashboard); the objectives are in alerts.py.\n"
    return head + yaml.safe_dump({"groups": groups}, sort_keys=False, width=110)
