"""Our server as a child process: started, waited for, asked for its metrics, stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
CPU_CONFIG = ROOT / "configs" / "cpu.yaml"

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
_SAID_CHARS = 2000


class ServerFailed(Exception):
    """The server ended or did not answer; the message holds the end of what it said."""


class Server:
    """A ``dear serve`` in the background, up between ``start`` and ``stop`` (or inside ``with``).

    Args:
        log: file that keeps what the server says.
        config: settings file.
        environment: variables besides this process's own.
    """

    def __init__(
        self, log: Path, config: Path = CPU_CONFIG, environment: Mapping[str, str] | None = None
    ) -> None:
        self.config = config
        self.url = ""
        self._log = log
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when /ready answers.

        Raises:
            ServerFailed: it ended, or was not ready within five minutes; it is stopped then.
        """
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "dear_serving", "serve"]
        command += ["--config", str(self.config), "--port", str(port)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"DEAR_REGISTRY_URL": f"sqlite:///{self._log}.db"} | self._environment,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it
                preexec_fn=_stop_with_parent,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does and wait until it and all it started have ended."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Of the process that was started; everything else descends from it.

        Raises:
            ServerFailed: it does not run.
        """
        if self._process is None:
            raise ServerFailed("the server does not run")
        return self._process.pid

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name, such as ``vllm:prompt_tokens_total``, summed over labels."""
        response = httpx.get(f"{self.url}/metrics", timeout=30)
        response.raise_for_status()
        return parse_metrics(response.text)

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

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise ServerFailed(f"the server ended with code {process.returncode}: {self._said()}")
            try:
                if httpx.get(f"{self.url}/ready", timeout=10).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
        raise ServerFailed(f"the server was not ready within {_START_TIMEOUT_S:.0f} s: {self._said()}")

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-_SAID_CHARS:].strip()


def parse_metrics(text: str) -> dict[str, float]:
    """Samples of Prometheus' text format by name, summed over their labels.

    Histograms give ``NAME_count`` and ``NAME_sum``; ``NAME_bucket`` sums mean nothing and are left out.
    """
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples


def _stop_with_parent() -> None:
    """A benchmark that is killed takes its server along (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
