"""Runs the server as a child process and ends every process that it started.

Ray and vLLM start a dozen processes, some in their own sessions. The supervisor makes itself their subreaper,
so that orphans become its children. When the server ends, for whatever reason, it ends the remaining
processes.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from types import FrameType, TracebackType

import psutil

_GRACE_S = 6.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Supervised:
    """Runs a command during a ``with`` block; all its descendants are ended at the end of the block.

    Args:
        command: of the server process.
        drain_s: how long it may take to finish its requests.
    """

    def __init__(self, command: list[str], drain_s: float = 0.0) -> None:
        self._command = command
        self._drain_s = drain_s

    def __enter__(self) -> subprocess.Popen[bytes]:
        adopt_orphans()
        # A session of its own: Ctrl-C in a terminal reaches the supervisor alone.
        self._child = subprocess.Popen(self._command, start_new_session=True, preexec_fn=stop_with_parent)
        return self._child

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send SIGINT, wait until the server has drained, and six seconds; then kill the remaining processes.

        A second Ctrl-C ends the wait.
        """
        try:
            if self._child.poll() is None:
                self._child.send_signal(signal.SIGINT)
                self._child.wait(self._drain_s + _GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            end_descendants()


def supervise(command: list[str], drain_s: float = 0.0) -> int:
    """Run ``command`` until it ends or SIGINT or SIGTERM arrives, then end every descendant.

    After a signal it has ``drain_s`` seconds to finish its requests; a second signal ends it at once.

    Returns:
        The command's exit code; 0 after a signal.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too, because shells start background processes with SIGINT ignored.
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Supervised(command, drain_s) as child:
            return child.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Kill all descendants. Repeats, because killing a parent can give us new children."""
    deadline_s = time.monotonic() + _GRACE_S
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=0.5)
        if time.monotonic() > deadline_s:
            return


def stop_with_parent() -> None:
    """Have this process interrupted when its parent ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _prctl(option: int, value: int) -> None:
    """Call prctl. Linux only: on other systems, orphans of a crashed server have to be killed manually."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
