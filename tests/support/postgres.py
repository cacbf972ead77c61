"""A PostgreSQL server of the test session's own, from Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest


class PostgresServer:
    """A server of the test's own, which it stops and starts. ``folder`` has its socket."""

    def __init__(self, folder: Path, control: list[str], options: str) -> None:
        self.folder = str(folder)
        self._control, self._options, self._path = control, options, folder

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """All its processes are stopped: connections stay, and nothing answers."""
        stopped = self._stop()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """It is killed, and started again at the end: connections break, new ones are refused."""
        ended = self._stop()
        for process in ended:
            process.kill()
        psutil.wait_procs(ended, timeout=30)
        try:
            yield
        finally:
            (self._path / "data" / "postmaster.pid").unlink(missing_ok=True)
            start = [*self._control, "-l", str(self._path / "log"), "-o", self._options, "start"]
            _run(start, self._path)

    def _stop(self) -> list[psutil.Process]:
        """Stop the first process, which then makes no others, and all others."""
        first = psutil.Process(int((self._path / "data" / "postmaster.pid").read_text().split()[0]))
        first.suspend()
        stopped = [first, *first.children()]
        for process in stopped[1:]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        return stopped


@contextmanager
def postgres() -> Iterator[str]:
    """The folder of a running server's socket; everybody who can reach it is trusted.

    Skips the test where none is installed.
    """
    with postgres_server() as server:
        yield server.folder


@contextmanager
def postgres_server(more_options: str = "") -> Iterator[PostgresServer]:
    """A running server that a test may stop; skips the test where none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    programs, folder = found[-1], Path(tempfile.mkdtemp(prefix="dear-pg-", dir="/tmp"))
    as_user: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    control = [*as_user, str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w", "-s"]
    options = f"-k {folder} -c listen_addresses='' -c fsync=off {more_options}"
    initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust"]
    try:
        _run([*as_user, *initdb], folder)
        _run([*control, "-l", str(folder / "log"), "-o", options, "start"], folder)
        try:
            yield PostgresServer(folder, control, options)
        finally:
            _run([*control, "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_postgres_database(folder: str) -> str:
    """The URL of a database that nobody has used, on the server whose socket is in ``folder``."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(host=folder, user="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql+psycopg://postgres@/{name}?host={folder}"


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    if done.returncode:
        raise RuntimeError(f"{command[-1]}: {done.stdout}")
