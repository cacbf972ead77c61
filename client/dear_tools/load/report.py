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

from dear_tools.exits import ToolError
from dear_tools.files import write_whole
from dear_tools.load import plots
from dear_tools.load.capacity import GENERATOR_LIMIT, Step
from dear_tools.load.figures import cell, latencies, ms, number, overview, rows_of, share, times
from dear_tools.load.loadtest import Outcome
from dear_tools.load.objective import Objective

NAMES = ("report.json", "report.md", "report.html")


def environment() -> dict[str, Any]:
    """The machine of the load generator, perhaps not the server's."""
    return {
        "sent_from": f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "dear_serving": metadata.version("dear-serving"),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def capacity_of(steps: Sequence[Step]) -> float | None:
    """The highest rate that held, requests/s; None where none did."""
    return max((step.rate for step in steps if step.held), default=None)


def content(
    command: str, settings: dict[str, Any], outcome: Outcome, steps: Sequence[Step], where: dict[str, Any]
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        command: what was typed.
        settings: of the load.
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
            "requests": outcome.schedule.requests,
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
                    "end": step.end,
                    "ok_per_s": step.outcome.summary.ok_per_s,
                    "good_share": step.outcome.summary.good_share,
                    "refused_share": step.outcome.summary.refused_share,
                    "lag_p99_ms": step.outcome.summary.lag_p99_ms,
                    "generator_cpu": step.outcome.summary.generator_cpu,
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
    environment.filters |= {"ms": ms, "share": share, "number": number, "cell": cell, "times": times}
    values = data | {
        "s": outcome.summary,
        "steps": sorted(steps, key=lambda step: step.rate),
        "warnings": warnings(outcome, steps),
        "latencies": latencies(outcome.summary),
        "overview": overview(outcome.summary),
        "parts": [
            (title, rows_of(parts))
            for title, parts in (("tenant", outcome.summary.tenants), ("model", outcome.summary.models))
            if len(parts) > 1
        ],
        "conditions": _conditions(data),
    }
    # All of them before the first is written: what fails leaves the last report as it was.
    texts = (
        json.dumps(data, indent=1, allow_nan=False) + "\n",
        environment.get_template("report.md").render(values),
        environment.get_template("report.html").render(values | {"plots": _plots(outcome, objective, steps)}),
    )
    for name, text in zip(NAMES, texts, strict=True):
        write_whole(folder / name, text)


def check_folder(folder: Path) -> None:
    """Check that a report can be written, before the load is sent.

    Raises:
        ToolError: there is a file of that name, or the folder may not be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ToolError(f"cannot write a report to {folder}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise ToolError(f"cannot write a report to {folder}: permission denied")


def warnings(outcome: Outcome, steps: Sequence[Step]) -> list[str]:
    """Warnings about the figures."""
    summary = outcome.summary
    found = []
    if outcome.was_stopped or any(step.end == "stopped" for step in steps):
        found.append("It was stopped before its end.")
    if limit := next((step for step in steps if step.is_generators_limit), None):
        found.append(
            f"The search ended at {number(limit.rate)} requests/s because the load generator took "
            f"{limit.outcome.summary.generator_cpu:.0%} of its core: the server may hold more."
        )
    if summary.generator_cpu > GENERATOR_LIMIT:
        found.append(
            f"The load generator took {summary.generator_cpu:.0%} of a core: it may be what was measured."
        )
    if summary.lag_p99_ms > 50:
        found.append(
            f"One request in a hundred went out over {summary.lag_p99_ms:.0f} ms late; "
            "latency counts from when it was to go out."
        )
    if summary.results.get("invalid"):
        found.append(f"Answers that were no permutation of their passages: {summary.results['invalid']:,}.")
    if summary.retries.too_soon:
        found.append(f"Retries that went out before the time asked for: {summary.retries.too_soon:,}.")
    if not summary.requests:
        found.append("No request was sent after the warm-up.")
    return found


def _conditions(data: dict[str, Any]) -> list[tuple[str, str]]:
    schedule, where = data["schedule"], data["environment"]
    arrivals = f", {schedule['arrivals']} arrivals" if schedule["arrivals"] else ""
    unit = "requests/s" if schedule["kind"] == "open" else "callers"
    after = f"after {schedule['warmup_s']:g} s of warm-up" if schedule["warmup_s"] else "without warm-up"
    stopped = "; stopped before its end" if schedule["was_stopped"] else ""
    found = [
        (
            "load",
            f"{schedule['kind']} loop, {', '.join(schedule['stages'])} {unit}{arrivals}, {after}{stopped}",
        )
    ]
    for name, value in data["settings"].items():
        pairs = (
            [f"{one} {given}" for one, given in value.items()] if isinstance(value, dict) else [str(value)]
        )
        found.append((name.replace("_", " "), ", ".join(pairs)))
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
        return [("Requests/s", plots.throughput(summary.intervals))]
    start_s = outcome.schedule.warmup_s
    over_time = plots.latency_over_time(outcome.records, summary.intervals, limit_s, start_s)
    found = [
        ("Latency over time", over_time),
        ("Latency, cumulative", plots.distribution(outcome.records, limit_s)),
        ("Requests/s", plots.throughput(summary.intervals)),
    ]
    if points := _points(outcome, objective, steps):
        against = plots.throughput_against_latency(points, limit_s, by_rate=bool(steps))
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
            for step in sorted(steps, key=lambda step: step.rate)
            if (latency := step.outcome.summary.latency) is not None
        ]
    limit_ms = objective.limit_s * 1e3
    return [
        (one.ok_per_s, one.p50_ms, one.p95_ms, one.p95_ms < limit_ms)
        for one in outcome.summary.intervals
        if one.full and one.p50_ms is not None and one.p95_ms is not None
    ]
