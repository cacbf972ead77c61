"""dear load against the real server, as benchmarks/load.md shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import Admin, Server

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "benchmarks" / "load.md").read_text()


def dear(server: Server, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``dear load`` with a variable that names the server, as users of another than the usual one have it."""
    return subprocess.run(
        [sys.executable, "-m", "dear_serving", "load", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"DEAR_BASE_URL": server.url} | environment,
    )


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def shape(text: str) -> list[str]:
    """Lines with their figures blanked, and whether they were good enough."""
    lines = (
        re.sub(r"[\d,.]+( ms| s)?", "#", line) for line in re.sub(": objective .*", "", text).splitlines()
    )
    return [re.sub(r"\s+", " ", line).strip() for line in lines]


def test_the_first_command_of_the_page_prints_what_the_page_shows(server: Server, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```console\n\$ dear load (.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    command, _, shown = block.partition("\n")
    folder = str(tmp_path / "first")
    done = dear(server, *command.replace("/tmp/load-first", folder).split())
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("One request in a hundred")]
    assert shape("\n".join(said)) == shape(shown.replace("/tmp/load-first", folder))
    summary = report(tmp_path / "first")["summary"]
    assert summary["results"] == {"ok": summary["requests"]}
    assert summary["queue"]["count"] == summary["engine"]["count"] == summary["requests"]


def test_tenants_and_adapters_are_mixed_limits_are_refusals_and_retry_after_is_kept(
    server: Server, admin: Admin, tmp_path: Path
) -> None:
    keys = {}
    for name, limits in (("load-free", {}), ("load-narrow", {"requests_in_flight": 1})):
        assert admin.http.post("/tenants", json={"id": name, **limits}).status_code == 201
        keys[name] = str(admin.http.post(f"/tenants/{name}/keys", json={}).json()["key"])
    done = dear(
        server,
        *("--callers", "8", "--duration", "5s", "--warmup", "500ms", "--passages", "3-6", "--words", "8"),
        *("--model", "dear-tiny", "--model", "legal", "--model", "medical", "--zipf", "1"),
        *("--tenant", "free:FREE_KEY", "--tenant", "narrow:NARROW_KEY=2", "--attempts", "2"),
        *("--out", str(tmp_path)),
        FREE_KEY=keys["load-free"],
        NARROW_KEY=keys["load-narrow"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = report(tmp_path)["summary"]
    tenants = {part["name"]: part for part in summary["tenants"]}
    assert set(tenants) == {"free", "narrow"}
    assert {part["name"] for part in summary["models"]} == {"dear-tiny", "legal", "medical"}
    assert tenants["free"]["refused_share"] == 0
    retries = summary["retries"]
    assert retries["refusals"] == retries["with_retry_after"] > 0
    assert retries["retried"] > 0
    assert retries["too_soon"] == 0
    assert "invalid" not in summary["results"]
    texts = [path.read_text() for path in tmp_path.iterdir()]
    assert not any(key in text for key in keys.values() for text in texts)


def test_a_search_finds_a_rate_that_holds(server: Server, tmp_path: Path) -> None:
    options = ("--rate", "16", "--duration", "500ms", "--warmup", "0", "--passages", "3", "--words", "8")
    done = dear(server, "--find-capacity", *options, "--objective", "p80<400ms", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    capacity = report(tmp_path)["capacity"]
    assert capacity["requests_per_s"] == max(step["rate"] for step in capacity["steps"] if step["held"])
    assert not all(step["held"] for step in capacity["steps"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model", "nobody"), "has no model 'nobody'; there is: dear-tiny, legal, "),
        (("--api-key", f"dear_{'0' * 12}_{'x' * 43}"), "the API key is not known"),
        (("--file", "configs/cpu.yaml"), "configs/cpu.yaml, line 1: this is not valid JSON"),
    ],
)
def test_what_cannot_begin_is_one_sentence(
    server: Server, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = dear(server, *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
