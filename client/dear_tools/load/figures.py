"""The figures of a load test as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dear_tools.load.summary import Part, Spread, Summary


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits; from ten seconds on in seconds."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1e3:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def share(value: float) -> str:
    """A share in percent; 0% and 100% only where exact."""
    percent = f"{100 * value:.1f}%"
    if percent == "100.0%" and value < 1:
        return "> 99.9%"
    return "< 0.1%" if percent == "0.0%" and value > 0 else percent


def number(value: float) -> str:
    """A count or rate: whole from 1000 on, else three significant digits."""
    return f"{value:,.0f}" if value >= 999.5 or value == int(value) else f"{value:.3g}"


def cell(value: object) -> str:
    """A text escaped for a cell of a Markdown table, or a line of Markdown."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))


def times(count: int) -> str:
    """How often."""
    return "once" if count == 1 else f"{count:,} times"


def row_of(name: str, spread: Spread | None) -> list[str]:
    """A line of a table of latencies."""
    if spread is None:
        return [name, *["-"] * 5]
    values = (spread.p50_ms, spread.p90_ms, spread.p95_ms, spread.p99_ms, spread.max_ms)
    return [name, *map(ms, values)]


def rows_of(parts: Sequence[Part]) -> list[list[str]]:
    """Lines of a table of tenants or models."""
    return [
        [
            part.name or "(default)",
            number(part.requests),
            share(part.goodput_share),
            share(part.refused_share),
            *(row_of("", part.latency)[index] for index in (1, 3, 4)),
        ]
        for part in parts
    ]


def latencies(summary: Summary) -> list[list[str]]:
    """Lines of the table of latencies: a name, p50, p90, p95, p99 and the longest."""
    return [
        row_of("latency, since scheduled", summary.latency),
        row_of("service, since sent", summary.service),
        row_of("queue, in the server", summary.queue),
        row_of("engine, in the server", summary.engine),
    ]


def overview(summary: Summary) -> list[tuple[str, str]]:
    """The figures that are no latencies, as names and texts."""
    retries = summary.retries
    of_requests = ", ".join(f"{count:,} {result}" for result, count in summary.results.items())
    found = [
        ("requests", f"{summary.requests:,} in {summary.duration_s:.1f} s: {of_requests or 'none'}"),
        ("requests/s sent / answered", f"{number(summary.offered_per_s)} / {number(summary.ok_per_s)}"),
        ("passages/s / tokens/s", f"{number(summary.passages_per_s)} / {number(summary.tokens_per_s)}"),
        (
            f"goodput ({summary.objective})",
            f"{number(summary.good_per_s)} requests/s, {share(summary.good_share)} of all requests: "
            f"objective {'met' if summary.objective_met else 'missed'}",
        ),
        ("refused with 429", share(summary.refused_share)),
        ("orders that are permutations", _valid(summary)),
        ("answers with repairs", number(summary.repaired)),
        ("windows a request", number(round(summary.windows_per_request, 2))),
    ]
    if retries.refusals:
        found.append(
            (
                "Retry-After",
                f"on {retries.with_retry_after:,} of {retries.refusals:,} refusals; "
                + (
                    f"{retries.retried:,} tried again, {retries.too_soon:,} of them too soon; "
                    f"{retries.let_in:,} answered then"
                    if retries.retried
                    else "none tried again"
                ),
            )
        )
    return found


def _valid(summary: Summary) -> str:
    invalid, ok = summary.results.get("invalid", 0), summary.results.get("ok", 0)
    return f"{ok:,} of {ok + invalid:,}"
