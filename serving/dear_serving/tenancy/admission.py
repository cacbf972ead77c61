"""Refuses work before it queues, and says when to come back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dear_serving.errors import Overloaded

_SMOOTHING = 0.1
_LONGEST_RETRY_S = 60


class Admission:
    """Bounds the requests in flight in this gateway replica; the rest get 429 at once.

    Retry-After is the work ahead over the rate at which requests were finished lately (an exponentially
    smoothed gap between completions), at least a second, at most a minute.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.in_flight = 0
        self._gap_s = 0.0
        self._last_done_s: float | None = None

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one place while the request is worked on.

        Raises:
            Overloaded: all places are taken.
        """
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self.in_flight} requests are in flight, the server takes {self._max_in_flight}",
                retry_after_s=self.retry_after_s(),
            )
        if self.in_flight == 0:
            self._last_done_s = None  # an idle gap says nothing of the rate
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            now = time.monotonic()
            if self._last_done_s is not None:
                gap = now - self._last_done_s
                self._gap_s += _SMOOTHING * (gap - self._gap_s) if self._gap_s else gap
            self._last_done_s = now

    def retry_after_s(self) -> int:
        """Seconds until the work now in flight should be done."""
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self.in_flight * self._gap_s)))
