"""A dry run of what `make bench-gpu` runs, on the tiny model and this machine's cores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]


def test_one_command_measures_decoders_peers_and_adapters(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--shape", "tiny", "--quick", "--apart"]
    command += ["--only", "decoders,serving,adapters", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    assert {one["name"]: one["status"] for one in measured} == dict.fromkeys(
        ("decoders", "serving", "adapters"), "measured"
    )
    report = (tmp_path / "report.md").read_text()
    for title in ("### Floors", "### Speed and passes", "### How many times as fast", "in rotation"):
        assert title in report
