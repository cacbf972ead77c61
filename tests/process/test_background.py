"""A server in the background that does not start; tests/e2e has those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dear_serving.errors import StartupError
from dear_serving.process.background import BackgroundServer, free_port, wait_until_ready
from tests.conftest import CPU_CONFIG


@pytest.mark.integration
def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("nonsense: 1\n")
    with pytest.raises(StartupError, match=r"ended with code 1: dear: .*nonsense: unknown setting"):
        BackgroundServer(config, tmp_path / "output.log").start()


def test_a_server_that_does_not_answer_in_time_is_said() -> None:
    with pytest.raises(StartupError, match="not ready within 0 s"):
        wait_until_ready(f"http://127.0.0.1:{free_port()}", lambda: None, timeout_s=0)


def test_what_was_not_started_has_no_process_and_stops_in_peace(tmp_path: Path) -> None:
    server = BackgroundServer(CPU_CONFIG, tmp_path / "output.log")
    server.stop()
    with pytest.raises(StartupError, match="was not started"):
        _ = server.process
