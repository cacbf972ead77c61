"""Whether the engines are busy, so that requests should save tokens."""

from __future__ import annotations

from collections.abc import Callable


class Busyness:
    """Busy from ``busy_s`` seconds of work ahead on, until it is less than half of that.

    Args:
        seconds_ahead: how long the engines take for the work of all gateways, in seconds.
        busy_s: None: never busy.
    """

    def __init__(self, seconds_ahead: Callable[[], float], busy_s: float | None) -> None:
        self._seconds_ahead = seconds_ahead
        self._busy_s = busy_s
        self._is_busy = False

    def __call__(self) -> bool:
        """Whether they are busy now."""
        if self._busy_s is None:
            return False
        least_s = self._busy_s / 2 if self._is_busy else self._busy_s
        self._is_busy = self._seconds_ahead() >= least_s
        return self._is_busy
