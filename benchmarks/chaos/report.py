"""Writes what the faults did: report.md to read, results.json with every figure, over_time.png to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.figures import Figures
from benchmarks.plots import COLOURS, panels

_COLUMNS = (
    *("fault", "requests", "lost, bare", "lost, client", "longest pause s", "p95 before, after, s"),
    *("recovered after s", "whole after s", "note"),
)
_FAILED_COLOUR = COLOURS[4]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault, and what came of it.

    ``broken_s`` is how long it lasted, ``whole_s`` when everything ran again, seconds after its start (None:
    not while it was watched), ``restarted`` the machines that ended by themselves. From ``lead_s`` seconds
    before the fault on, ``answered`` and ``failed`` count the calls that ended in each second, ``median_s``
    is the median latency of those answered.
    """

    name: str
    title: str
    figures: Figures
    broken_s: float
    watched_s: float
    whole_s: float | None
    restarted: tuple[str, ...]
    lead_s: int
    answered: tuple[int, ...]
    failed: tuple[int, ...]
    median_s: tuple[float | None, ...]
    note: str = ""


def write(folder: Path, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> Path:
    """Write the three files; returns report.md's path."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"environment": environment, "faults": [asdict(outcome) for outcome in outcomes]}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if outcomes:
        plot(outcomes, folder / "over_time.png")
    path = folder / "report.md"
    path.write_text(text(outcomes, environment), encoding="utf-8")
    return path


def text(outcomes: Sequence[Outcome], environment: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = [
        "# What each failure does",
        "",
        f"`{environment['command']}`, commit {environment['commit'][:8]}, {environment['cores']} cores of "
        f"{environment['cpu']}, load average {environment['load_average_1_min']} from "
        "other programs at the start.",
        "",
        table(outcomes),
        "",
        "![calls answered and failed over time](over_time.png)",
        "",
    ]
    return "\n".join(lines)


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a fault."""
    rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_row, outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(outcome: Outcome) -> tuple[str, ...]:
    figures = outcome.figures
    return (
        outcome.title,
        str(figures.requests),
        str(figures.lost_bare),
        str(figures.lost_client),
        f"{figures.pause_s:.1f}",
        f"{_seconds(figures.p95_before_s)}, {_seconds(figures.p95_s)}",
        _moment(figures.recovered_s, outcome.watched_s),
        _moment(outcome.whole_s, outcome.watched_s),
        _note(outcome),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _moment(found_s: float | None, watched_s: float) -> str:
    return f"not in {watched_s:.0f}" if found_s is None else f"{found_s:.0f}"


def _note(outcome: Outcome) -> str:
    parts = [f"{count} x {cause}" for cause, count in list(outcome.figures.causes.items())[:3]]
    if outcome.restarted:
        parts.append(f"ended by themselves: {', '.join(outcome.restarted)}")
    if outcome.note:
        parts.append(outcome.note)
    return "; ".join(parts)


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Calls a second, answered and failed, around each fault."""
    figure, axes = panels(len(outcomes), 5.0, 2.3, columns=3)
    for place, outcome in zip(axes, outcomes, strict=True):
        seconds = [second - outcome.lead_s for second in range(len(outcome.answered))]
        place.axvspan(0, max(outcome.broken_s, 0.4), color="#dddddd", label="broken")
        place.bar(seconds, outcome.answered, 1.0, align="edge", color=COLOURS[0], label="answered")
        place.bar(
            seconds,
            outcome.failed,
            1.0,
            bottom=outcome.answered,
            align="edge",
            color=_FAILED_COLOUR,
            label="failed",
        )
        place.set_title(outcome.title, fontsize=9.0)
        place.set_ylabel("calls/s", fontsize=8.0)
        place.tick_params(labelsize=8.0)
    for place in axes[-3:]:
        place.set_xlabel("seconds after the fault", fontsize=8.0)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3, fontsize=8.0)
    figure.savefig(path)
