"""The README's commands print what the README says they print, times and ids aside."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Server

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def console(command: str) -> tuple[str, str]:
    """The whole command of the console block that starts with ``command``, and what it prints."""
    (block,) = (block for block in blocks("console") if block.startswith(f"$ {command}"))
    lines = block.removeprefix("$ ").splitlines()
    end = next(number for number, line in enumerate(lines) if number and not line.startswith("    "))
    if "'" not in lines[0]:
        end = 1
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def timeless(text: str) -> list[str]:
    """Lines without the server's progress; numbers before ``ms`` or ``s`` and scores, which differ by the
    last bits between processors, are blanked."""
    lines = (line.rstrip() for line in text.splitlines() if not line.startswith("dear: "))
    return [re.sub(r"\d+ (?=ms|s\b)|\b[01]\.\d\d\b", "# ", line) for line in lines if line]


def test_every_make_target_in_the_readme_is_one_line_of_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):.*;", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"[`$] ?make ([\w-]+)", README)) <= targets
    assert {"setup", "demo", "serve", "test", "check", "locks"} <= targets


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for folder in ("serving", "client", "benchmarks", "configs"):
        assert list((ROOT / folder).rglob("*.md"))
    for page in (path for path in ROOT.rglob("*.md") if not path.relative_to(ROOT).parts[0].startswith(".")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.e2e
def test_the_curl_call_prints_what_the_readme_shows(server: Server) -> None:
    command, shown = console("curl")
    done = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, server.url)], capture_output=True, text=True, check=True
    )
    answer, expected = json.loads(done.stdout), json.loads(shown)
    for reply in (answer, expected):
        del reply["id"]
        for name in ("queue_ms", "engine_ms", "passes", "drafts", "accepted_drafts"):
            del reply["meta"]["dear"][name]
    results, shown_results = answer.pop("results"), expected.pop("results")
    assert answer == expected
    assert [one["index"] for one in results] == [one["index"] for one in shown_results]
    for one, other in zip(results, shown_results, strict=True):
        assert one["relevance_score"] == pytest.approx(other["relevance_score"], abs=0.05)


@pytest.mark.e2e
def test_the_python_example_prints_what_the_readme_shows(server: Server) -> None:
    (program,) = blocks("python")
    (shown,) = (block for block in blocks("text") if re.match(r"\d\.\d\d  ", block))
    assert ADDRESS in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace(ADDRESS, server.url)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert timeless(done.stdout) == timeless(shown)
