"""What a deadline (``ends_s``, of time.monotonic; inf: none) leaves to engines, and to tasks side by side."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# Part of the deadline reserved for the way back from the engine: this share, at most this many seconds.
_WAY_BACK_SHARE, _WAY_BACK_S = 0.1, 0.05


def seconds_for_engine(ends_s: float) -> float | None:
    """Seconds that an engine has from now on; None: as many as it takes."""
    left_s = ends_s - time.monotonic()
    return None if math.isinf(left_s) else left_s - min(_WAY_BACK_S, _WAY_BACK_SHARE * left_s)


async def results_by(tasks: Sequence[asyncio.Task[T]], ends_s: float) -> list[T | None]:
    """The result of each task; None for one that is not done at the deadline, which is cancelled. The first
    failure cancels the others and is raised unchanged; so does a cancellation.
    """
    try:
        left_s = None if math.isinf(ends_s) else ends_s - time.monotonic()
        done, _ = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() if task in done else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
