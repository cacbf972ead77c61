"""Set up `.venv` in the project's root from the pinned locks. Needs Python 3.11 or 3.12 and pip only.

Run by `make setup`. Quick when nothing changed: a stamp of the locks is written into the environment as
the last step, so an interrupted set-up has no stamp and starts over from an empty folder. With the argument
`clients` it is `.venv-clients` that is set up, where the tests run other people's clients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "configs" / "locks"
VENV = ROOT / ".venv"
CLIENTS_VENV = ROOT / ".venv-clients"
SUPPORTED = ((3, 11), (3, 12))


class SetupError(Exception):
    """What a user can act on; shown as one sentence."""


def wanted_stamp(*locks: str, project: str = "") -> str:
    """Digest of everything that decides what is installed: locks, project metadata, this Python."""
    digest = hashlib.sha256(f"{sys.version_info[:3]} {ROOT}".encode())
    for path in (*(LOCKS / lock for lock in locks), Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(project.encode())
    return digest.hexdigest()


def project_metadata() -> str:
    """Of pyproject.toml only what is installed; its tools' settings may change freely."""
    import tomllib  # not at the top: an older Python has to reach the sentence about its version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return repr([project[table] for table in ("build-system", "project")])


def stamp_of(venv: Path) -> Path:
    """Where an environment keeps its stamp."""
    return venv / "installed.sha256"


def is_current(venv: Path, stamp: str) -> bool:
    """Whether the environment was completed from exactly these inputs."""
    return stamp_of(venv).is_file() and stamp_of(venv).read_text() == stamp


def pip_install(venv: Path, what: str, packages: int, *args: str) -> None:
    """Run pip in an environment, showing how many of `packages` it has reached; its own log on failure."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-deps", *args]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    started, seen, log = time.monotonic(), 0, []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            seen += line.startswith(("Collecting", "Obtaining", "Processing"))
            phase = "installing" if line.startswith("Installing collected") else f"{seen}/{packages}"
            show(f"{what}: {phase}", started, end="")
    if process.returncode != 0:
        sys.stderr.write("\n" + "".join(log[-15:]))
        raise SetupError(f"could not install {what}; the last lines of pip's log are above")
    show(f"{what}: done", started)


def show(text: str, started: float, end: str = "\n") -> None:
    """One progress line, rewritten in place on a terminal; elsewhere only finished steps are printed."""
    if end and not sys.stdout.isatty():
        sys.stdout.write(f"  {text} ({time.monotonic() - started:.0f} s)\n")
    elif sys.stdout.isatty():
        sys.stdout.write(f"\r\033[K  {text} ({time.monotonic() - started:.0f} s){end}")
    sys.stdout.flush()


def count_packages(lock: Path) -> int:
    """Number of pinned packages in a lock file."""
    return sum(line[:1].isalnum() and "==" in line for line in lock.read_text().splitlines())


def check_python() -> None:
    """Refuse a Python that the locks are not made for.

    Raises:
        SetupError: it is one.
    """
    if sys.version_info[:2] not in SUPPORTED:
        raise SetupError(
            f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}; "
            "name another one: make setup PYTHON=python3.11"
        )


def make(venv: Path, stamp: str, size: str, install: Callable[[], None]) -> None:
    """Create an environment from nothing, install into it and stamp it, unless it is current.

    Raises:
        SetupError: unsupported platform, or pip failed.
    """
    if is_current(venv, stamp):
        return
    sys.stdout.write(f"Setting up {venv} ({size}, once)\n")
    shutil.rmtree(venv, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    except subprocess.CalledProcessError as error:
        raise SetupError("python -m venv failed; on Debian: apt install python3-venv") from error
    install()
    stamp_of(venv).write_text(stamp)


def set_up() -> None:
    """The server, its tests and tools, in `.venv`.

    Raises:
        SetupError: unsupported Python or platform, or pip failed.
    """
    check_python()

    def install() -> None:
        # --retries 1: where PyTorch's index cannot be reached but the wheel lies in pip's find-links, only
        # seconds are lost.
        pip_install(VENV, "PyTorch for CPU", 1, "--retries", "1", "-r", str(LOCKS / "torch-cpu.txt"))
        install_lock(VENV, "vLLM, Ray and the rest", "dev.txt")
        pip_install(VENV, "dear-serving", 1, "--no-build-isolation", "--editable", str(ROOT))

    stamp = wanted_stamp("torch-cpu.txt", "dev.txt", project=project_metadata())
    make(VENV, stamp, "about two minutes and 3 GB", install)


def set_up_clients() -> None:
    """Other people's clients, in `.venv-clients`.

    Raises:
        SetupError: unsupported Python or platform, or pip failed.
    """
    check_python()
    make(
        CLIENTS_VENV,
        wanted_stamp("clients.txt"),
        "about a minute and 0.7 GB",
        lambda: install_lock(CLIENTS_VENV, "other people's clients", "clients.txt"),
    )


def install_lock(venv: Path, what: str, name: str) -> None:
    """Install all that a lock names, each file checked against its hashes."""
    lock = LOCKS / name
    pip_install(venv, what, count_packages(lock), "--require-hashes", "-r", str(lock))


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["clients"]:
            set_up_clients()
        else:
            set_up()
    except SetupError as error:
        sys.exit(f"set-up stopped: {error}")
    except KeyboardInterrupt:
        sys.exit("\nset-up interrupted; run it again, it starts over")
