"""The audit of the locks: what its exit code says, above all where the advisories are not reached."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "configs" / "locks" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "audit", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


KNOWN = {"name": "a", "version": "1", "vulns": []}
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([KNOWN], 0, "no known vulnerability in 1 packages"),
        ([KNOWN, VULNERABLE], 1, "b 2: PYSEC-1, mended in 3"),
        ([VULNERABLE, SKIPPED], 1, "b 2: PYSEC-1"),
        ([KNOWN, SKIPPED], 3, "could not look up c"),
        ([SKIPPED], 3, "could not reach the advisories"),
        (None, 3, "could not reach the advisories"),
    ],
    ids=["clean", "vulnerable", "vulnerable and skipped", "partly", "all skipped", "no report"],
)
def test_only_packages_that_were_looked_up_count_as_clean(
    found: list[dict[str, object]] | None, code: int, said: str, audit: ModuleType
) -> None:
    """pip-audit itself says "No known vulnerabilities found" of packages that it could not look up."""
    report = audit.Report.of(None if found is None else json.dumps({"dependencies": found}))
    assert report.code == code
    assert said in report.text


def test_a_tool_that_fails_or_writes_nothing_is_no_report(audit: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "one.txt"
    lock.write_text("a==1\n")
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nraise SystemExit('no network')\n")
    tool.chmod(0o700)
    assert audit.look_up(tmp_path, lock).code == 3


def test_every_lock_is_audited(audit: ModuleType) -> None:
    locks = {file.name for file in (ROOT / "configs" / "locks").glob("*.txt")}
    assert set(audit.IN_THE_SBOM) == locks - {"cpu-overrides.txt"}
    # All of cpu.txt and build.txt is in dev.txt; torch is in gpu.txt: no advisory names a version 2.13.0+cpu.
    assert set(audit.LOOKED_UP) == set(audit.IN_THE_SBOM) - {"cpu.txt", "build.txt", "torch-cpu.txt"}
