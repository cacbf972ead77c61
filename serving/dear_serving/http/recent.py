"""Answers that cost something, shared by those who take one that is a moment old.

A request says so with ``Cache-Control: max-age=SECONDS`` (RFC 9111, 5.2.1.1); without, it gets a new one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from starlette.datastructures import Headers

T = TypeVar("T")

_MOST_AGE_S = 10


def max_age_s(headers: Headers) -> int:
    """How old an answer a request takes, in seconds; at most ten."""
    found = re.search(r"(?:^|,)\s*max-age=([0-9]{1,9})\s*(?:,|$)", headers.get("cache-control", ""))
    return min(int(found[1]), _MOST_AGE_S) if found else 0


class Recent(Generic[T]):
    """The last answer of ``ask``. For one event loop.

    Args:
        ask: finds the answer.
        clock: seconds.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._asking: asyncio.Task[T] | None = None
        self._began_s = 0.0

    async def get(self, max_age_s: float) -> tuple[T, float]:
        """An answer and its age in seconds, counted from when it was asked for.

        All who ask meanwhile get the same one, or its error; a caller who leaves ends it for nobody.

        Args:
            max_age_s: how old it may be; 0: it is asked for now.
        """
        asking = self._asking
        if asking is None or max_age_s <= 0 or self._clock() - self._began_s > max_age_s:
            self._began_s = self._clock()
            self._asking = asking = asyncio.create_task(self._found())
            asking.add_done_callback(self._forget_failure)
        began_s = self._began_s
        return await asyncio.shield(asking), self._clock() - began_s

    async def _found(self) -> T:
        return await self._ask()

    def _forget_failure(self, asked: asyncio.Task[T]) -> None:
        if (asked.cancelled() or asked.exception() is not None) and self._asking is asked:
            self._asking = None
