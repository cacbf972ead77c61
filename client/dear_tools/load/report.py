"""The report of a load test: JSON for programs, Markdown for a repository, one HTML page with plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2

from dear_tools.files import write_whole
from dear_tools.load import plots
from dear_tools.load.capacity import Step
from dear_tools.load.objective import Objective
from dear_tools.load.summary import Part, Spread, Summary
from dear_tools.load.trial import Outcome

NAMES = ("report.json", "report.md", "report.html")


def environment() -> dict[str, Any]:
    """The machine that sent the load, which may be another than the server's."""
    return {
        "sent_from": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "dear_serving": metadata.version("dear-serving"),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def capacity_of(steps: Sequence[Step]) -> float | None:
    """The highest rate that held, requests a second; None where none did."""
    return max((step.rate for step in steps if step.held), default=None)


def content(
    command: str, settings: dict[str, Any], outcome: Outcome, steps: Sequence[Step], where: dict[str, Any]
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        command: what was typed.
        settings: what the load was, as told by those who made it.
        outcome: the run; of a search the step that held at the highest rate, else the last.
        steps: of a search for the capacity; empty where there was none.
        where: see environment.
    """
    found: dict[str, Any] = {
        "command": command,
        "environment": where,
        "settings": settings,
        "schedule": {
            "kind": outcome.schedule.kind,
            "stages": [str(stage) for stage in outcome.schedule.stages],
            "arrivals": outcome.schedule.arrivals if outcome.schedule.kind == "open" else None,
            "warmup_s": outcome.schedule.warmup_s,
            "was_stopped": outcome.was_stopped,
        },
        "summary": asdict(outcome.summary),
    }
    if steps:
        found["capacity"] = {
            "objective": outcome.summary.objective,
            "requests_per_s": capacity_of(steps),
            "steps": [
                {
                    "rate": step.rate,
                    "held": step.held,
                    "was_cut": step.was_cut,
                    "ok_per_s": step.outcome.summary.ok_per_s,
                    "good_share": step.outcome.summary.good_share,
                    "refused_share": step.outcome.summary.refused_share,
                    "latency": step.outcome.summary.latency and asdict(step.outcome.summary.latency),
                }
                for step in steps
            ],
        }
    return found


def write(
    folder: Path, data: dict[str, Any], outcome: Outcome, objective: Objective, steps: Sequence[Step]
) -> None:
    """Write report.json, report.md and report.html into a folder, each whole.

    Raises:
        ToolError: a file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dear_tools.load", "pages"),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"ms": ms, "share": share, "number": number}
    values = data | {
        "s": outcome.summary,
        "steps": sorted(steps, key=lambda step: step.rate),
        "warnings": warnings(outcome.summary),
        "latencies": latencies(outcome.summary),
        "overview": overview(outcome.summary),
        "parts": [
            (title, rows_of(parts))
            for title, parts in (("tenant", outcome.summary.tenants), ("model", outcome.summary.models))
        ],
        "conditions": _conditions(data),
    }
    write_whole(folder / NAMES[0], json.dumps(data, indent=1) + "\n")
    write_whole(folder / NAMES[1], environment.get_template("report.md").render(values))
    drawn = _plots(outcome, objective, steps)
    write_whole(folder / NAMES[2], environment.get_template("report.html").render(values | {"plots": drawn}))


def warnings(summary: Summary) -> list[str]:
    """What a reader should know before believing the figures."""
    found = []
    if summary.generator_cpu > 0.9:
        found.append(
            f"The load generator took {summary.generator_cpu:.0%} of a core: it may be what was measured."
        )
    if summary.lag_p99_ms > 50:
        found.append(
            f"One request in a hundred went out over {summary.lag_p99_ms:.0f} ms late; "
            "latency counts from when it was to go out."
        )
    if summary.results.get("invalid"):
        found.append(f"{summary.results['invalid']} answers were no permutation of their passages.")
    if summary.retries.too_soon:
        found.append(f"{summary.retries.too_soon} retries went out before the time that was asked for.")
    if not summary.requests:
        found.append("No request was sent after the warm-up.")
    return found


def latencies(summary: Summary) -> list[list[str]]:
    """Lines of the table of latencies: a name, p50, p90, p95, p99 and the longest."""
    names = ("latency", "service", "queue", "engine")
    return [row_of(name, getattr(summary, name)) for name in names]


def overview(summary: Summary) -> list[tuple[str, str]]:
    """The figures that are no latencies, as names and texts."""
    retries = summary.retries
    of_requests = ", ".join(f"{count:,} {result}" for result, count in summary.results.items())
    found = [
        ("requests", f"{summary.requests:,} in {summary.duration_s:.1f} s: {of_requests or 'none'}"),
        ("sent / answered a second", f"{number(summary.offered_per_s)} / {number(summary.ok_per_s)}"),
        ("passages, tokens a second", f"{number(summary.passages_per_s)}, {number(summary.tokens_per_s)}"),
        (
            f"goodput ({summary.objective})",
            f"{number(summary.good_per_s)} a second, {share(summary.good_share)} of all requests: "
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
                f"on {retries.with_retry_after:,} of {retries.refusals:,} refusals; {retries.retried:,} "
                f"retried, {retries.too_soon:,} of them too soon, {retries.let_in:,} answered then",
            )
        )
    return found


def _valid(summary: Summary) -> str:
    invalid, ok = summary.results.get("invalid", 0), summary.results.get("ok", 0)
    return f"{ok:,} of {ok + invalid:,}"


def _conditions(data: dict[str, Any]) -> list[tuple[str, str]]:
    schedule, where = data["schedule"], data["environment"]
    arrivals = f", {schedule['arrivals']} arrivals" if schedule["arrivals"] else ""
    unit = "requests a second" if schedule["kind"] == "open" else "callers"
    stopped = "; stopped before its end" if schedule["was_stopped"] else ""
    found = [
        (
            "load",
            f"{schedule['kind']} loop, {', '.join(schedule['stages'])} {unit}{arrivals}, after "
            f"{schedule['warmup_s']:g} s of warm-up that does not count{stopped}",
        )
    ]
    found += [(name.replace("_", " "), str(value)) for name, value in data["settings"].items()]
    summary = data["summary"]
    found.append(
        (
            "load generator",
            f"{where['sent_from']} (load average {where['load_average_1_min']}), Python {where['python']}, "
            f"dear-serving {where['dear_serving']}; {summary['generator_cpu']:.0%} of a core, "
            f"{summary['lag_p99_ms']:.1f} ms behind at p99",
        )
    )
    return [*found, ("at", where["at"])]


def _plots(outcome: Outcome, objective: Objective, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Titles and SVGs."""
    summary, limit_s = outcome.summary, objective.limit_s
    if not any(record.result == "ok" for record in outcome.records):
        return [("Requests a second", plots.throughput(summary.intervals))]
    start_s = outcome.schedule.warmup_s
    over_time = plots.latency_over_time(outcome.records, summary.intervals, limit_s, start_s)
    found = [
        ("Latency over time", over_time),
        ("Latency, cumulative", plots.distribution(outcome.records, limit_s)),
        ("Requests a second", plots.throughput(summary.intervals)),
    ]
    if points := _points(outcome, objective, steps):
        per = "of a rate tried" if steps else "in a slice of the run"
        against = plots.throughput_against_latency(points, limit_s, per=per)
        found.append(("Throughput against latency", against))
    for title, parts in (("Tenants", summary.tenants), ("Models", summary.models)):
        if len(parts) > 1 and any(part.latency is not None for part in parts):
            found.append((title, plots.by_part(parts, limit_s)))
    return found


def _points(
    outcome: Outcome, objective: Objective, steps: Sequence[Step]
) -> list[tuple[float, float, float, bool]]:
    if steps:
        return [
            (step.outcome.summary.ok_per_s, latency.p50_ms, latency.p95_ms, step.held)
            for step in steps
            if (latency := step.outcome.summary.latency) is not None
        ]
    limit_ms = objective.limit_s * 1e3
    return [
        (one.ok_per_s, one.p50_ms, one.p95_ms, one.p95_ms < limit_ms)
        for one in outcome.summary.intervals
        if one.p50_ms is not None and one.p95_ms is not None
    ]


def ms(value: float | None) -> str:
    """Milliseconds with three figures that count; from ten seconds on in seconds."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1e3:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def share(value: float) -> str:
    """A share in percent; what is not all or nothing does not look it."""
    percent = f"{100 * value:.1f}%"
    if percent == "100.0%" and value < 1:
        return "> 99.9%"
    return "< 0.1%" if percent == "0.0%" and value > 0 else percent


def number(value: float) -> str:
    """A count or rate: whole from 1000 on, else three figures that count."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


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
