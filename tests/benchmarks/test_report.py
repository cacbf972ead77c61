"""The report: every figure in JSON, configuration and targets before tables in Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.environment import environment
from benchmarks.report import Outcome, markdown_table, write_report
from benchmarks.report_types import Claim, Table

AT_START = {"quick": False, "seed": 7, "wall_s": 12.3}


def a_benchmark() -> ModuleType:
    """A benchmark with one table, one claim that is met, one that is not, and a plot."""
    module = ModuleType("pretended")

    def plot(result: dict[str, Any], folder: Path) -> list[Path]:
        path = folder / "one_bar.png"
        path.write_bytes(b"PNG")
        return [path]

    vars(module).update(
        claims=lambda result: [
            Claim("speed-up", result["speed_up"], "x", 3.0),
            Claim("added", 20.0, "ms", 15.0, at_least=False),
        ],
        tables=lambda result: [Table("Speed", "Measured so.", ("arm", "x"), (("a|b", "3.20"),))],
        plot=plot,
    )
    return module


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report of three benchmarks: measured, skipped and failed."""
    outcomes = [
        Outcome("first", "The first", "measured", "", 3.21, {"speed_up": 3.2}, a_benchmark()),
        Outcome("second", "The second", "skipped", "its module is not there"),
        Outcome("third", "The third", "failed", "ServerFailed: no"),
    ]
    return write_report(tmp_path / "results", outcomes, environment() | AT_START)


def test_configuration_comes_before_targets_and_those_before_tables(report: Path) -> None:
    text = report.read_text()
    places = [text.index(part) for part in ("## Configuration", "## Targets", "## The first", "### Speed")]
    assert places == sorted(places)
    assert "max_model_len" in text
    assert "Seed: 7" in text


def test_targets_say_whether_they_are_met(report: Path) -> None:
    text = report.read_text()
    assert "| speed-up | 3.20 x | at least 3 x | yes |" in text
    assert "| added | 20.00 ms | at most 15 ms | **no** |" in text


def test_what_was_not_measured_says_why(report: Path) -> None:
    text = report.read_text()
    assert "## The second\n\nSkipped: its module is not there." in text
    assert "## The third\n\nFailed: ServerFailed: no." in text


def test_plots_are_linked_from_the_report(report: Path) -> None:
    assert "![one bar](plots/one_bar.png)" in report.read_text()
    assert (report.parent / "plots" / "one_bar.png").is_file()


def test_json_holds_the_raw_figures(report: Path) -> None:
    data = json.loads((report.parent / "results.json").read_text())
    first, second, third = data["benchmarks"]
    assert first["result"] == {"speed_up": 3.2}
    assert [claim["met"] for claim in first["claims"]] == [True, False]
    assert (second["status"], third["status"]) == ("skipped", "failed")
    assert data["environment"]["cores"] >= 1
    assert {"commit", "dirty", "versions", "config"} <= set(data["environment"])


def test_a_smoke_run_is_called_one(tmp_path: Path) -> None:
    path = write_report(tmp_path, [], environment() | AT_START | {"quick": True})
    assert "A smoke run" in path.read_text()


def test_cells_of_a_table_cannot_break_it() -> None:
    assert markdown_table(("a", "b"), [("x|y", "1\n2")]).splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x\\|y | 1 2 |",
    ]
