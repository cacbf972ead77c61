"""The page about dear eval: its commands run, its tables are the presets', its output is what comes out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from dear_tools.evaluation.presets import presets
from dear_tools.evaluation.render import published_cells
from dear_tools.evaluation.report import Beside
from tests.conftest import ROOT
from tests.tools.evaluation.conftest import Serving, dear_eval

PAGE = (ROOT / "benchmarks" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    (command, shown)
    for block in BLOCKS
    for command, shown in re.findall(r"^\$ dear eval (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]
NEEDS_DATA = " --data data "


def without_times(text: str) -> list[str]:
    return [re.sub(r"\d+\.\d+ s\b", "# s", line.rstrip()) for line in text.splitlines()]


@pytest.fixture
def here(server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's root, with the fake server as the one that is found; returns what stands for /tmp."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("DEAR_BASE_URL", server.url)
    return tmp_path


def arguments(command: str, folder: Path) -> list[str]:
    return shlex.split(command.replace("/tmp/", f"{folder}/"))


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 6
    assert sum(block.count("$ ") for block in BLOCKS) == len(COMMANDS)
    assert PAGE.count("```") == 2 * len(BLOCKS)


def test_every_command_of_the_page_works_in_its_order(here: Path) -> None:
    for command, _ in COMMANDS:
        if NEEDS_DATA in command:
            continue
        ended = dear_eval(*arguments(command, here))
        assert (ended.code, ended.said) == (0, []), command
        if "--json" in command:
            assert json.loads(ended.out)["queries"] == 4


def test_what_needs_no_server_prints_what_is_shown(here: Path) -> None:
    offline = [(command, shown) for command, shown in COMMANDS if "--ranker" in command]
    assert offline
    for command, shown in offline:
        ended = dear_eval(*arguments(command, here))
        assert ended.out.replace(f"{here}/", "/tmp/").splitlines() == [
            line.rstrip() for line in shown.splitlines()
        ]


def test_what_asks_a_server_prints_lines_of_that_shape(here: Path) -> None:
    asking = [(command, shown) for command, shown in COMMANDS if shown and "--ranker" not in command]
    assert len(asking) == 2
    for command, shown in asking:
        printed = without_times(dear_eval(*arguments(command, here)).out)
        expected = without_times(shown)
        assert len(printed) == len(expected)
        assert printed[:3] == expected[:3]
        assert [line.split()[:1] for line in printed[4:]] == [line.split()[:1] for line in expected[4:]]


def test_the_command_with_real_collections_works(here: Path, shared_data: Path) -> None:
    (command,) = (command for command, _ in COMMANDS if NEEDS_DATA in command)
    given = [str(shared_data) if word == "data" else word for word in arguments(command, here)]
    ended = dear_eval(*given, "--limit", 2)
    assert ended.code == 0
    assert "dear: preset dl20 is left out" in "\n".join(ended.said)
    assert "collection   measure" in ended.out


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_on_the_page(name: str) -> None:
    preset = presets()[name]
    assert f"| `{name}` | {', '.join(preset.candidates)} | {', '.join(preset.qrels)} |" in PAGE


@pytest.mark.parametrize("name", presets())
def test_every_published_figure_is_on_the_page(name: str) -> None:
    for published in presets()[name].published:
        system, measure, value, _, comparable, why, _ = published_cells(Beside(published, None))
        assert f"| `{name}` | {system} | {measure} | {value} | {comparable} | {why} |" in PAGE


def test_every_option_that_the_page_names_exists() -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", dear_eval("--help").out)) | {"--config"}  # of dear serve
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known


@pytest.mark.parametrize("page", ["benchmarks/evaluation.md", "benchmarks/results/evaluation/README.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (folder / link).exists(), link


@pytest.mark.parametrize(("name", "value"), [("dl19", "29.21"), ("noveleval", "56.38")])
def test_the_kept_reports_say_what_their_page_says(name: str, value: str) -> None:
    folder = ROOT / "benchmarks" / "results" / "evaluation"
    report = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    row = next(row for row in report["rows"] if row["measure"] == "nDCG@10")
    assert f"{100 * row['comparison']['after']:.2f}" == value
    (line,) = (
        line
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines()
        if f"[{name}]" in line
    )
    assert f"{100 * row['first_stage']:.2f} " in line
    assert f", {value}, " in line
    assert f"| {100 * row['first_stage']:.2f} | {value} |" in (folder / name / "report.md").read_text(
        encoding="utf-8"
    )
