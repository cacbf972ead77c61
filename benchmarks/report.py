"""Writes what was measured: results.json with every figure, report.md to read, plots to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from benchmarks.report_types import Claim, Table


@dataclass(frozen=True, slots=True)
class Outcome:
    """One benchmark's end: measured, skipped or failed (``reason`` says why)."""

    name: str
    title: str
    status: Literal["measured", "skipped", "failed"]
    reason: str = ""
    wall_s: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    module: ModuleType | None = None

    @property
    def claims(self) -> list[Claim]:
        """Its figures beside their targets."""
        return self.module.claims(self.result) if self.module else []

    @property
    def tables(self) -> list[Table]:
        """Its tables."""
        return self.module.tables(self.result) if self.module else []

    def plot(self, folder: Path) -> list[Path]:
        """Draw its plots into ``folder``."""
        return self.module.plot(self.result, folder) if self.module else []


def write_report(folder: Path, outcomes: Sequence[Outcome], environment: dict[str, Any]) -> Path:
    """Write results.json, plots/*.png and report.md into ``folder``; returns report.md's path."""
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    results = {
        "environment": environment,
        "benchmarks": [
            {
                "name": outcome.name,
                "title": outcome.title,
                "status": outcome.status,
                "reason": outcome.reason,
                "wall_s": round(outcome.wall_s, 1),
                "claims": [asdict(claim) | {"met": claim.met} for claim in outcome.claims],
                "result": outcome.result,
            }
            for outcome in outcomes
        ],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sections = ["# What was measured", _configuration(environment), _claims(outcomes)]
    for outcome in outcomes:
        drawn = [path.relative_to(folder).as_posix() for path in outcome.plot(plots)]
        sections.append(_section(outcome, drawn))
    report = folder / "report.md"
    report.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return report


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    marks = ["---", *("---:" for _ in columns[1:])]
    lines = [columns, marks, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def _configuration(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    commit = environment["commit"][:12] or "none"
    facts = [
        ("Machine", f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gib']} GiB"),
        ("System", f"{environment['system']}, Python {environment['python']}"),
        ("Versions", versions),
        ("Commit", commit + (" with uncommitted changes" if environment["dirty"] else "")),
        ("Measured", f"{environment['measured_at']}, {environment['wall_s']:.0f} s in all"),
        ("Other load at the start", f"{environment['load_average_1_min']} (1 minute average)"),
        ("Seed", str(environment["seed"])),
    ]
    lines = ["## Configuration", "\n".join(f"- {name}: {value}" for name, value in facts)]
    if environment["quick"]:
        lines.append("**A smoke run (`--quick`): the figures say that everything runs, and no more.**")
    config = environment["config"]
    lines.append(f"`{config['file']}`, where a benchmark does not name its own:")
    lines.append(f"```yaml\n{config['text'].strip()}\n```")
    lines.append(
        "Sides that are compared are measured in turn (A B A B ...). A ratio is the median of the ratios "
        "taken pair by pair, with the quartiles in brackets."
    )
    return "\n\n".join(lines)


def _claims(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (
            claim.text,
            f"{claim.value:.2f} {claim.unit}".strip(),
            _target(claim),
            "yes" if claim.met else "**no**",
        )
        for outcome in outcomes
        for claim in outcome.claims
    ]
    if not rows:
        return "## Targets\n\nNone was measured."
    return "## Targets\n\n" + markdown_table(("", "measured", "target", "met"), rows)


def _target(claim: Claim) -> str:
    return f"{'at least' if claim.at_least else 'at most'} {claim.target:g} {claim.unit}".strip()


def _section(outcome: Outcome, plots: Sequence[str]) -> str:
    parts = [f"## {outcome.title}"]
    if outcome.status != "measured":
        return "\n\n".join([*parts, f"{outcome.status.capitalize()}: {outcome.reason}."])
    for table in outcome.tables:
        parts += [f"### {table.title}", table.note, markdown_table(table.columns, table.rows)]
    parts += [f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in plots]
    return "\n\n".join(parts)
