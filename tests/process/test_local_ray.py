"""Where the server's own Ray keeps its files."""

from __future__ import annotations

import socket
import stat
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
