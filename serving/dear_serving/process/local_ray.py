"""The Ray that the server starts: on loopback, with a token, its files for its owner alone."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any

from dear_serving.errors import StartupError

_MEMORY_BYTES = 256 * 1024 * 1024
_LOG_BYTES = 100 * 1024 * 1024
_FOLDER_VARIABLE = "RAY_TMPDIR"
_FOLDER = Path(f"/tmp/dear-{os.getuid()}")


def address() -> str | None:
    """Where a Ray of the user's runs (RAY_ADDRESS); None: the server starts one."""
    return os.environ.get("RAY_ADDRESS") or None


def set_environment() -> None:
    """Set what Ray reads when it is imported; its processes inherit it. The user's own values win."""
    if address() is not None:  # how a cluster is secured is its owner's choice
        return
    # Who reaches Ray's ports runs code here, unless a token is needed.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # A Ray without other machines, whose sockets are on loopback: its default on the systems of this name.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # What gateways and engines write has a line for each request; Ray's own files are cut at 512 MB.
    os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(_LOG_BYTES))
    # Every user may write to Ray's folders, so they are in one of our own. Short: it is in names of sockets.
    os.environ.setdefault(_FOLDER_VARIABLE, str(_FOLDER))


def logs() -> str:
    """The folder of the logs of Ray, Serve and vLLM."""
    return f"{os.environ.get(_FOLDER_VARIABLE, '/tmp')}/ray/session_latest/logs"


def start(metrics_port: int | None = None) -> str | None:
    """Start Ray on this machine, or join the user's.

    Args:
        metrics_port: where the Ray that is started exports metrics; None: a free port.

    Returns:
        The URL of that export; None for the user's Ray, which has one on every node.

    Raises:
        StartupError: the folder for Ray's files is another user's, or the port is taken.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if (joined := address()) is not None:
        ray.init(address=joined, **options)
        return None
    if metrics_port is not None:
        _check_free(metrics_port)
    if os.environ[_FOLDER_VARIABLE] == str(_FOLDER):
        _make_private(_FOLDER)
    ray.init(
        address="local",  # without it Ray joins what a cluster that once ran here left word of
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        _metrics_export_port=metrics_port,
        object_store_memory=_MEMORY_BYTES,
        **options,
    )
    with contextlib.suppress(FileNotFoundError):  # the user keeps it elsewhere
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
    (node,) = ray.nodes()
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def _check_free(port: int) -> None:
    """Ray's agent would end without a word."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartupError(f"http.metrics_port: {port}: {error.strerror}") from None


def _make_private(folder: Path) -> None:
    """Create a folder that this user alone may enter."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise FileExistsError(errno.EEXIST, "it is another user's, or a link")
        folder.chmod(0o700)
    except OSError as error:
        raise StartupError(f"{_FOLDER_VARIABLE}: {folder}: {error.strerror}") from None
