"""Waiting for what another task, thread or process brings about: till it holds, not for so long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return when it holds, and let the other tasks run meanwhile; TimeoutError where it does not come to."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - of any kind, and in other threads too
            await asyncio.sleep(0.002)


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> bool:
    """Whether it holds within this time."""
    ends_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.1)
    return True
