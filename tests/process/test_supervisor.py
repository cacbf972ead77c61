"""What the supervisor does with signals: a server may finish its requests, unless it is told again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.integration

SERVER = """
import pathlib, sys, time
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
try:
    (folder / "up").touch()
    time.sleep(600)
except KeyboardInterrupt:
    (folder / "told").touch()
    time.sleep(seconds)
    (folder / "finished").touch()
"""


def supervised(folder: Path, seconds: float, drain_s: float) -> subprocess.Popen[bytes]:
    """A supervisor with a server that takes so many seconds to finish; returns when that is up."""
    command = [sys.executable, "-c", SERVER, str(folder), str(seconds)]
    code = "import sys; from dear_serving.process.supervisor import supervise; "
    code += f"sys.exit(supervise({command!r}, {drain_s}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_for(folder / "up")
    return process


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_has_its_time_to_finish(tmp_path: Path, number: int) -> None:
    with supervised(tmp_path, seconds=8, drain_s=60) as process:  # longer than without a drain
        process.send_signal(number)
        assert process.wait(60) == 0
    assert (tmp_path / "finished").exists()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, seconds=500, drain_s=500) as process:
        process.send_signal(signal.SIGTERM)
        wait_for(tmp_path / "told")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not (tmp_path / "finished").exists()


def test_a_server_that_takes_longer_is_ended(tmp_path: Path) -> None:
    with supervised(tmp_path, seconds=500, drain_s=1) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not (tmp_path / "finished").exists()
