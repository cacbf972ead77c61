"""Runs the server as a child and answers for every process it starts.

Ray and vLLM start a dozen processes, some in sessions of their own. The supervisor makes itself their
subreaper, so that orphans become its children, and ends what is left when the server ends, however it ends.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

_GRACE_S = 6.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def supervise(command: list[str], environment: dict[str, str] | None = None) -> int:
    """Run ``command`` until it ends or SIGINT or SIGTERM comes, then end every descendant.

    The child is asked with SIGTERM and killed after six seconds, or at once on a second signal.

    Returns:
        The child's exit code; 0 when it was ended by our signal.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    # A session of its own: Ctrl-C in a terminal reaches the supervisor alone.
    child = subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=_die_with_parent
    )
    try:
        asked_s = 0.0
        while child.poll() is None:
            if signals and not asked_s:
                child.terminate()
                asked_s = time.monotonic()
            if asked_s and (len(signals) > 1 or time.monotonic() - asked_s > _GRACE_S):
                break
            time.sleep(0.05)
    finally:
        _kill_descendants()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0 if signals else child.wait()


def _kill_descendants() -> None:
    """Kill until none is left: killing a parent can hand us new children."""
    for _ in range(20):
        descendants = psutil.Process().children(recursive=True)
        if not descendants:
            return
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=0.5)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere orphans of a crashed server have to be ended by hand."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
