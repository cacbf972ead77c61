"""The server process: starts a local Ray, Serve and our application, and runs until SIGINT."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from dear_serving.errors import DearError, StartupError
from dear_serving.process import local_ray
from dear_serving.process.supervisor import adopt_orphans, end_descendants
from dear_serving.settings import ADMIN_PORT_VARIABLE, Settings, load_settings

# Set before ray is imported. Ray and vLLM print little on the terminal; their logs are in Ray's log folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")  # as in http.ingress: saves 1 ms per request
os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(256 * 1024 * 1024))  # else 4 MiB
os.environ.setdefault("RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
local_ray.set_environment()

_PROGRESS_S = 5.0
_REASON_CHARS = 400
_CLOSE_S = 4.0
_SERVE_SHARE = 1 / 3  # of gateway.drain_s, in which new requests are served still
_LOOK_S = 0.2


def run(settings: Settings) -> int:
    """Start everything, print when the server is ready, and wait for SIGINT.

    Returns:
        The exit code: 0 after a signal, 1 if the start failed (one sentence on standard error).
    """
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start us with SIGINT ignored
    try:
        with _Progress() as progress:
            _start(settings, progress)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
        say("stopping")
        _drain(settings.gateway.drain_s)
        return 0
    except KeyboardInterrupt:
        say("stopping")
        return 0
    except DearError as error:
        say(f"cannot start: {error}")
        return 1
    except Exception as error:
        say(f"cannot start: {_reason(repr(error), [])}")
        return 1
    finally:
        _shut_down()


def main() -> NoReturn:
    """Entry point of the server process; its arguments are settings file, host and port."""
    os.umask(0o077)  # what this process and those that it starts write is its owner's alone
    _, config, host, port = sys.argv
    settings = load_settings(Path(config))
    http = settings.http.model_copy(update={"host": host, "port": int(port)})
    code = run(settings.model_copy(update={"http": http}))
    sys.stderr.flush()
    os._exit(code)  # after a failed start, Ray's threads may still run


def say(text: str) -> None:
    """Print one line for the person who started the server."""
    sys.stderr.write(f"dear: {text}\n")
    sys.stderr.flush()


class _Progress:
    """Prints the current stage every few seconds."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._stage = "loading Ray"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> _Progress:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def stage(self, text: str) -> None:
        """Enter a stage and print it."""
        self._stage = text
        say(f"[{self.elapsed_s():3.0f} s] {text}")

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def _report(self) -> None:
        say(f"[  0 s] {self._stage}")
        while not self._done.wait(_PROGRESS_S):
            say(f"[{self.elapsed_s():3.0f} s] ... {self._stage}")


def _start(settings: Settings, progress: _Progress) -> None:
    from ray import serve

    from dear_serving.adapters.base_files import unpinned
    from dear_serving.adapters.configured import register_configured
    from dear_serving.adapters.preflight import base_source
    from dear_serving.app import APP_NAME, build_application, http_options, serve_logging

    if (warning := unpinned(base_source(settings))) is not None:
        say(f"warning: {warning}")
    register_configured(settings)
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    progress.stage("starting Ray")
    _tell_admin_port(settings)
    exported = local_ray.start(settings.http.metrics_port)
    serve.start(http_options=http_options(settings), logging_config=serve_logging(settings.logging))
    count = len(settings.adapters.serve)
    progress.stage(f"starting vLLM with {settings.model.id} and {count} adapters")
    try:
        # At once: whoever sits before it learns why the engine did not start.
        serve.run(build_application(settings, start_attempts=1), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[APP_NAME].deployments.values()
        raise StartupError(_reason(str(error), [one.message for one in deployments])) from None
    where = f"http://{settings.http.host}:{settings.http.port}"
    if settings.http.page:
        admin = f"http://{settings.http.host}:{settings.http.admin_port or settings.http.port}"
        say(f"in a browser: {where}/ to try it, {admin}/fleet to watch it")
    say(f"[{progress.elapsed_s():3.0f} s] ready at {where}, models: {', '.join(settings.templates())}")
    if exported is not None:
        say(f"metrics of every replica at {exported}")
    if settings.http.admin_port is not None:
        say(f"admin routes and all metrics at http://{settings.http.host}:{settings.http.admin_port}")
    say("stop with Ctrl-C")


def _tell_admin_port(settings: Settings) -> None:
    """Put the admin port where Ray's proxy reads it: the environment. A Ray of the user's has its own.

    Raises:
        SettingsError: the user's Ray was not told of it, or HAProxy is asked for as well.
    """
    from dear_serving.app import check_admin_port

    if local_ray.address() is None:
        os.environ.pop(ADMIN_PORT_VARIABLE, None)
        if settings.http.admin_port is not None:
            os.environ[ADMIN_PORT_VARIABLE] = str(settings.http.admin_port)
    check_admin_port(settings)


def _reason(error: str, messages: list[str]) -> str:
    """The last exception in Serve's reports, as one line. Reports nest tracebacks of several processes."""
    report = "\n".join((error, *messages)).replace("\\n", "\n")
    raised = re.split(r"^\s*(?=[\w.]*(?:Error|Exception): )", report, flags=re.MULTILINE)[-1]
    reason = " ".join(raised.split())[:_REASON_CHARS]
    return f"{reason} (logs: {local_ray.logs()})"


def _drain(drain_s: float) -> None:
    """Return when no gateway has a request in flight, after ``drain_s`` seconds at the latest."""
    from ray import serve

    from dear_serving.app import APP_NAME, GATEWAY_NAME

    until_s = time.monotonic() + drain_s
    is_said = False
    with contextlib.suppress(Exception):  # Ray may be ending, too
        gateways = serve.get_deployment_handle(GATEWAY_NAME, APP_NAME)
        while (left_s := until_s - time.monotonic()) > 0:
            in_flight = sum(gateways.broadcast("drain", drain_s * _SERVE_SHARE).results(timeout_s=left_s))
            if not in_flight:
                return
            if not is_said:
                say(f"{in_flight} requests in flight are finished first; Ctrl-C again ends them")
                is_said = True
            time.sleep(_LOOK_S)


def _shut_down() -> None:
    """Have Serve end our application, and end every process that we started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # hide messages of Ray's threads when they end
        os.dup2(silence, stream.fileno())
    closing = threading.Thread(target=_close_serve, daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    end_descendants()


def _close_serve() -> None:
    if "ray" in sys.modules:
        from ray import serve

        from dear_serving.app import APP_NAME

        with contextlib.suppress(Exception):  # a half-started Ray fails in many ways; it is killed anyway
            if local_ray.address() is None:
                serve.shutdown()
            else:  # others may run applications there
                serve.delete(APP_NAME)
