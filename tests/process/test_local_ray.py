"""Where the server's own Ray keeps its files."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dear_serving.errors import StartupError
from dear_serving.process.local_ray import _make_private, start


def test_the_folder_is_its_owners_alone_even_if_it_was_there(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", tmp_path):
        tmp_path.chmod(0o777)
        _make_private(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(StartupError, match="link: it is another user's, or a link"):
        _make_private(tmp_path / "link")


def test_a_metrics_port_that_is_taken_is_said_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"http.metrics_port: {port}: Address already in use"):
            start(metrics_port=port)


@pytest.mark.integration
def test_a_ray_that_ended_without_a_word_is_not_joined() -> None:
    """One of ``ray start`` leaves its address in the folder; who lost his machine has it there still."""
    program = (
        "from dear_serving.process import local_ray; local_ray.set_environment(); print(local_ray.start())"
    )
    with tempfile.TemporaryDirectory(prefix="dear-", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment["RAY_TMPDIR"] = folder
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.stdout.startswith("http://127.0.0.1:"), done.stderr[-1000:]
