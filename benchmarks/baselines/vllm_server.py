"""vLLM's own OpenAI server, with the engine settings and the environment that our engine runs with.

Classes of ours that replace vLLM's own inside our engine (``worker_cls``, ``scheduler_cls``) are left out.

`vllm serve` does not start from the CPU wheel, its module does: this one reads our settings file, turns what
our engine is told into command line flags, and becomes that server.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.baselines.child import Child
from benchmarks.server import Server
from dear_serving.process.background import free_port

SERVER_MODULE = "vllm.entrypoints.openai.api_server"
OUR_PACKAGE = "dear_serving."
_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


class VllmServer(Child):
    """The server's process, started at once. ``config`` is a settings file of ours."""

    def __init__(self, config: Path, log: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        arguments = ["--config", str(config), "--port", str(port)]
        super().__init__("benchmarks.baselines.vllm_server", arguments, log)

    def wait_until_ready(self) -> None:
        """Return when /health answers.

        Raises:
            BaselineFailed: it ended, or was not ready in time.
        """
        deadline_s = time.monotonic() + Server.start_timeout_s
        while time.monotonic() < deadline_s:
            self.check_alive()
            try:
                if httpx.get(f"{self.url}/health", timeout=10).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_S)
        raise self.failed(f"was not ready within {Server.start_timeout_s:.0f} s")

    def command(self) -> list[str]:
        """The command line it runs under, for the report."""
        return psutil.Process(self.pid).cmdline()[1:]


def engine_flags(engine_kwargs: Mapping[str, Any]) -> list[str]:
    """Keyword arguments of vLLM's engine as flags of its server: ``max_loras=2`` as ``--max-loras 2``.

    A truth value is a bare flag (``--no-...`` where false), what is neither text nor a number is JSON. What
    names something in our own package is left out: the server is to be vLLM as it comes.
    """
    flags = []
    for name, value in engine_kwargs.items():
        if OUR_PACKAGE in str(value) or name == "additional_config":
            continue
        flag = name.replace("_", "-")
        if value is True:
            flags.append(f"--{flag}")
        elif value is False:
            flags.append(f"--no-{flag}")
        else:
            flags += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def main() -> None:
    """Become vLLM's server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    # After the arguments: Ray and vLLM take seconds to import.
    import dear_serving.process.runtime  # noqa: F401  # sets the variables that our server process sets
    from dear_serving.adapters.preflight import base_source
    from dear_serving.app import llm_config
    from dear_serving.settings import load_settings

    settings = load_settings(given.config)
    config = llm_config(settings)
    command = [sys.executable, "-m", SERVER_MODULE, "--host", "127.0.0.1", "--port", str(given.port)]
    command += ["--model", base_source(settings), "--served-model-name", settings.model.id]
    command += engine_flags(config.engine_kwargs)
    command += ["--disable-uvicorn-access-log"]  # ours writes no line a request either
    if settings.adapters.serve:
        folders = {one.name: settings.adapters.root / one.path for one in settings.adapters.serve}
        command += ["--lora-modules", *(f"{name}={folder}" for name, folder in folders.items())]
    _stop_with_parent()
    os.execve(command[0], command, os.environ | config.runtime_env["env_vars"])


def _stop_with_parent() -> None:
    """SIGTERM when the benchmark dies without a word; Linux only, and it holds across exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    main()
