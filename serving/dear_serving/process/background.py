"""A server in the background: started as a user starts it, waited for, and stopped with all it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from dear_client import Client, ClientError, Retry
from dear_serving.errors import StartupError
from dear_serving.process.supervisor import stop_with_parent

_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.5
_OUTPUT_CHARS = 2000


class BackgroundServer:
    """A ``dear serve`` on a free port of this machine, up between ``start`` and ``stop`` or inside ``with``.

    Its registry is a file beside the log. It is interrupted when the process that started it ends (Linux).

    Args:
        config: settings file.
        log: file that keeps its output.
        environment: variables besides this process's own.
    """

    start_timeout_s = 300.0

    def __init__(self, config: Path, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.log = log
        self.url = ""
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            StartupError: it ended, or was not ready within ``start_timeout_s``; with the end of its output.
                It is stopped then.
        """
        self.spawn()
        try:
            wait_until_ready(self.url, self.process.poll, self.start_timeout_s)
        except BaseException as error:
            self.stop()
            if isinstance(error, StartupError):
                raise StartupError(f"{error}: {self.output()[-_OUTPUT_CHARS:].strip()}") from None
            raise

    def spawn(self) -> None:
        """Start the process and return at once."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "dear_serving", "serve"]
        command += ["--config", str(self.config.resolve()), "--port", str(port)]
        registry = {"DEAR_REGISTRY_URL": f"sqlite:///{self.log.resolve()}.db"}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | registry | self._environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which stops the server
                preexec_fn=stop_with_parent,
            )

    def stop(self, number: int = signal.SIGINT) -> None:
        """Send a signal, as Ctrl-C does, and return when the process has ended; kill it after 20 seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor, from which all other processes of the server descend.

        Raises:
            StartupError: it was not started.
        """
        if self._process is None:
            raise StartupError("the server was not started")
        return self._process

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def wait_until_ready(url: str, exit_code: Callable[[], int | None], timeout_s: float) -> None:
    """Return when the server at ``url`` answers.

    Args:
        url: without a path.
        exit_code: of the server's process; None while it runs.
        timeout_s: from now on.

    Raises:
        StartupError: the process ended, or the time was up.
    """
    deadline_s = time.monotonic() + timeout_s
    with Client(url, retry=Retry(attempts=1)) as client:
        while (code := exit_code()) is None:
            try:
                client.ready()
            except ClientError:  # nothing listens, or Ray's proxy does not know the route yet
                pass
            else:
                return
            if time.monotonic() > deadline_s:
                raise StartupError(f"the server was not ready within {timeout_s:.0f} s")
            time.sleep(_POLL_S)
    raise StartupError(f"the server ended with code {code}")


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
