"""Bounds how long an engine may take to start, also while its start blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from dear_serving.errors import StartupError

logger = logging.getLogger(__name__)

_GRACE_S = 30.0


@asynccontextmanager
async def start_deadline(timeout_s: float, grace_s: float = _GRACE_S) -> AsyncIterator[None]:
    """Bound the block by ``timeout_s``; for the constructor of a process that starts an engine.

    vLLM waits for its processes inside the event loop, without a limit. So a thread counts the time. At the
    end of it the thread kills the child processes started in the block, and vLLM's wait fails; a block that
    still has not ended after ``grace_s`` ends this process, with exit code 1.

    Raises:
        StartupError: the time was up.
    """
    finished, expired = threading.Event(), threading.Event()
    before = set(psutil.Process().children(recursive=True))

    def watch() -> None:
        if finished.wait(timeout_s):
            return
        expired.set()
        for child in set(psutil.Process().children(recursive=True)) - before:
            child.kill()
        if not finished.wait(grace_s):
            logger.critical(_message(timeout_s))
            os._exit(1)

    watcher = threading.Thread(target=watch, name="start-deadline", daemon=True)
    watcher.start()
    try:
        async with asyncio.timeout(timeout_s) as timeout:
            yield
    except Exception:
        if not expired.is_set() and not timeout.expired():
            raise
    finally:
        finished.set()
        watcher.join()
    if expired.is_set() or timeout.expired():
        raise StartupError(_message(timeout_s))


def _message(timeout_s: float) -> str:
    return f"the engine did not start within {timeout_s:g} s (engine.start_timeout_s)"
