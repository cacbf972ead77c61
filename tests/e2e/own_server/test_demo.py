"""``make demo`` prints what the README shows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dear_serving.process.background import free_port
from tests.conftest import ROOT
from tests.e2e.test_readme import console, timeless

pytestmark = pytest.mark.e2e


def test_make_demo_prints_what_the_readme_shows() -> None:
    _, shown = console("make demo")
    done = subprocess.run(
        [sys.executable, "-m", "dear_serving", "demo", "--port", str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert timeless(done.stdout) == timeless(shown)
    assert "ready at" in done.stderr or "starting vLLM" in done.stderr
