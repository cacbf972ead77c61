"""What benchmarks/load.md says can be typed, typed: against a server that ranks at once, for a moment."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dear_tools.exits import FAILED, MISSED
from dear_tools.load.command import load
from tests.conftest import ROOT
from tests.tools.load.servers import Asked, ranking, ranks, scripted

PAGE = (ROOT / "benchmarks" / "load.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("dear load ")
]
EXPORTS = dict(re.findall(r"(\w+_KEY)=(\S+)", PAGE))
SHORTER = 150

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(load)


async def answers(asked: Asked) -> bytes:
    """As many as are asked for."""
    count = min(asked.body.get("top_n") or 100, asked.count) if asked.is_ranking else 0
    return ranking(range(count)) if asked.is_ranking else await ranks(asked)


def shorter(word: str) -> str:
    """Its seconds and minutes divided; other words as they are."""

    def divided(found: re.Match[str]) -> str:
        return f"{float(found[1]) * (60 if found[2] == 'm' else 1) / SHORTER:g}s"

    return re.sub(r"(?<![\w.])(\d+)([sm])\b", divided, word)


@pytest.mark.integration
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_does_what_it_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, _, target = command.partition(" > ")
    words = shlex.split(typed)[2:]
    values = [word if "<" in word else shorter(word) for word in words]
    if "--arrivals" not in words:
        values += ["--arrivals", "constant"]  # so few by chance may be none
    if "--duration" not in words:
        values += ["--duration", "300ms"]
    if "--find-capacity" in words:
        values += ["--rate", "500"]  # from 1 on it takes a minute
    for name, key in EXPORTS.items():
        monkeypatch.setenv(name, key)
    monkeypatch.chdir(ROOT)
    with scripted(answers) as served:
        out = tmp_path / "out"
        done = CliRunner().invoke(app, [*values, "--url", served.url, "--warmup", "0", "--out", str(out)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 0, done.output
    assert len(list(out.iterdir())) == 3
    assert served.rankings
    if target:
        assert json.loads(done.stdout)["summary"]["objective"] == "p99<2s"
    if "--tenant" in words:
        keys = {one.headers["authorization"] for one in served.rankings}
        assert keys <= {f"Bearer {key}" for key in EXPORTS.values()}


def test_the_page_shows_every_option_group_and_names_every_option() -> None:
    groups = " ".join(COMMANDS)
    for option in (
        "--rate",
        "--callers",
        "--file",
        "--passages",
        "--words",
        "--identical",
        "--model",
        "--zipf",
    ):
        assert option in groups
    names = {
        name for param in typer.main.get_command(app).params for name in param.opts if name.startswith("--")
    }
    unsaid = {name for name in names if f"{name}" not in PAGE}
    assert unsaid <= {"--scoring", "--install-completion", "--show-completion", "--help"}


def test_the_page_has_the_exit_codes_and_results_that_there_are() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE)} == {0, 2, FAILED, MISSED}
    from typing import get_args

    from dear_tools.load.records import Result

    assert all(f"`{result}`" in PAGE for result in get_args(Result))
