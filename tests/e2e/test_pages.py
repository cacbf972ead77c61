"""The pages for users: every command they show, against the real server, prints what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Server

pytestmark = pytest.mark.e2e

PAGES = ["client/command-line.md", "benchmarks/evaluation.md"]
NEEDS_MORE = ("--data data ", "--stages ")
"""Other files; a server with a first stage."""


def commands(page: str) -> list[tuple[str, str]]:
    """What is typed after each ``$`` of the page's console blocks, and what is shown below it."""
    text = (ROOT / page).read_text()
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            typed = [lines[0]] + [line[2:] for line in lines[1:] if line.startswith("> ")]
            shown = [line for line in lines[1:] if not line.startswith("> ")]
            found.append(("\n".join(typed), "\n".join(shown)))
    return found


def blanked(text: str) -> list[str]:
    """Lines without what differs from one processor or run to another: decimals, times and ids."""
    text = re.sub(r'"request_id": "\w+"', "", text)
    return [re.sub(r"\d+\.\d+", "#", line.rstrip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_prints_what_is_shown(page: str, server: Server, tmp_path: Path) -> None:
    for name in ("client", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEAR_BASE_URL": server.url,
        "COLUMNS": "100",
    }
    found = commands(page)
    assert len(found) > 4
    for command, shown in found:
        if any(other in command for other in NEEDS_MORE):
            continue
        done = subprocess.run(
            ["bash", "-c", command.replace("/tmp/", f"{tmp_path}/")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if shown:
            printed = (done.stdout + done.stderr).replace(f"{tmp_path}/", "/tmp/")
            assert sorted(blanked(printed)) == sorted(blanked(shown)), command
