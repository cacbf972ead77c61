"""How much may be tried again, so that retries cannot multiply the load of engines in trouble."""

from __future__ import annotations

_SHARE = 0.2


class RetryBudget:
    """A fifth of the calls may be tried again, and at any time as many as a replica can have had at once: so
    what the death of one cuts off is all done by others.

    Args:
        most: a replica's calls at once.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = float(most)

    def earn(self) -> None:
        """A call begins."""
        self._left = min(self._most, self._left + _SHARE)

    def spend(self) -> bool:
        """Take one retry; False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
