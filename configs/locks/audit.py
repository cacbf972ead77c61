"""A bill of materials of every lock, and what is known to be vulnerable in it (make audit).

The bills (CycloneDX, ``dist/sbom/LOCK.cdx.json``) need no network once the tools are there. The advisories
are PyPI's. Exit code 0: no vulnerability is known; 1: one is; 2: a tool failed; 3: the advisories, or some of
them, could not be looked up. The tools run in an environment of their own that is removed afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "configs" / "locks"
BILLS = ROOT / "dist" / "sbom"
IN_THE_SBOM = ("cpu.txt", "torch-cpu.txt", "gpu.txt", "dev.txt", "clients.txt", "audit.txt", "build.txt")
LOOKED_UP = ("dev.txt", "gpu.txt", "clients.txt", "audit.txt")
"""dev.txt holds all of cpu.txt and build.txt, gpu.txt the torch of torch-cpu.txt."""

_VULNERABLE, _UNKNOWN = 1, 3


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one lock, for people and as an exit code."""

    code: int
    text: str

    @classmethod
    def of(cls, found: str | None) -> Self:
        """Read pip-audit's JSON; None: it wrote none."""
        packages = json.loads(found)["dependencies"] if found else []
        skipped = [one["name"] for one in packages if "skip_reason" in one]
        if len(skipped) == len(packages):
            return cls(_UNKNOWN, "could not reach the advisories")
        lines = [
            f"{one['name']} {one['version']}: {vulnerability['id']}, "
            f"mended in {' or '.join(vulnerability['fix_versions']) or 'no version'}"
            for one in packages
            for vulnerability in one.get("vulns", ())
        ]
        code = _VULNERABLE if lines else _UNKNOWN if skipped else 0
        lines = lines or [f"no known vulnerability in {len(packages) - len(skipped)} packages"]
        if skipped:
            lines.append(f"could not look up {', '.join(skipped)}")
        return cls(code, "; ".join(lines))


def look_up(tools: Path, lock: Path) -> Report:
    """Ask for the advisories of a lock's packages."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [
            str(tools / "bin" / "pip-audit"),
            "--disable-pip",
            "--no-deps",
            "--progress-spinner",
            "off",
        ]
        command += ["--cache-dir", folder, "--format", "json", "--output", str(found), "-r", str(lock)]
        subprocess.run(command, capture_output=True)
        return Report.of(found.read_text() if found.is_file() else None)


def write_bill(tools: Path, lock: Path) -> None:
    """Write a lock's bill of materials."""
    bill = BILLS / f"{lock.stem}.cdx.json"
    command = [str(tools / "bin" / "cyclonedx-py"), "requirements", str(lock), "--output-reproducible"]
    subprocess.run([*command, "-o", str(bill)], check=True)


def main() -> int:
    """Make the tools' environment, the bills, and look up the advisories."""
    with tempfile.TemporaryDirectory(prefix="dear-audit-") as folder:
        tools = Path(folder)
        venv.create(tools, with_pip=True)
        install = [
            str(tools / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "-qq",
            "--no-deps",
            "--require-hashes",
        ]
        subprocess.run([*install, "-r", str(LOCKS / "audit.txt")], check=True)
        BILLS.mkdir(parents=True, exist_ok=True)
        for name in IN_THE_SBOM:
            write_bill(tools, LOCKS / name)
        say(f"bills of materials of {len(IN_THE_SBOM)} locks: {BILLS.relative_to(ROOT)}")
        one = tools / "one.txt"  # asked alone first, so that nothing else is asked where nobody answers
        one.write_text("pip==23.2.1\n")
        if look_up(tools, one).code == _UNKNOWN:
            say("audit: could not reach the advisories; nothing is known of any package")
            return _UNKNOWN
        reports = {name: look_up(tools, LOCKS / name) for name in LOOKED_UP}
    for name, report in reports.items():
        say(f"audit of {name}: {report.text}")
    codes = {report.code for report in reports.values()}
    return _VULNERABLE if _VULNERABLE in codes else max(codes)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        say(f"audit stopped: {Path(error.cmd[0]).name} failed")
        sys.exit(2)
