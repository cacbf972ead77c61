"""A baseline's process: kept in the background, its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil

from benchmarks.baselines.family import family
from benchmarks.server import ROOT

_STOP_TIMEOUT_S = 15.0
_SAID_CHARS = 2000


class BaselineFailed(Exception):
    """A baseline ended or did not answer; the message holds the end of what it said."""


class Child:
    """``python -m module arguments``, started at once and stopped, with all it started, by ``stop``.

    Its standard output is a pipe of text lines, ``output``, when ``talks``, else it goes to the log as well.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                env=os.environ | dict(environment or {}),
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
            )

    @property
    def pid(self) -> int:
        """Of the process itself; what it starts descends from it."""
        return self.process.pid

    @property
    def input(self) -> IO[str]:
        """Where a child that talks reads."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def output(self) -> IO[str]:
        """Where a child that talks writes."""
        assert self.process.stdout is not None
        return self.process.stdout

    def check_alive(self) -> None:
        """Raises BaselineFailed where the process has ended."""
        if self.process.poll() is not None:
            raise self.failed(f"ended with code {self.process.returncode}")

    def failed(self, what: str) -> BaselineFailed:
        """An error that says what happened and how the child's own output ended."""
        said = self._log.read_text(encoding="utf-8", errors="replace")[-_SAID_CHARS:].strip()
        command = " ".join(map(str, self.process.args)) if isinstance(self.process.args, list) else ""
        return BaselineFailed(f"{command} {what}: {said}")

    def stop(self) -> None:
        """Ask with SIGTERM, wait, then kill what is left of it and of its descendants."""
        started = family(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(started, timeout=_STOP_TIMEOUT_S)
        for process in left:
            process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
