"""Estimates how long rounds take, from observed rounds."""

from __future__ import annotations

from dear_serving.ranking.strategies.cost import Cost


class LatencyModel:
    """Estimates the seconds of future rounds by exponential smoothing. Not thread-safe.

    Rounds of one window and rounds of many windows are smoothed separately: parallel windows share the
    engines, so a round of many takes longer than one window and less than the sum of its windows.

    Args:
        weight: weight of the newest round, in (0, 1].
    """

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._lone_s: float | None = None  # a round of one window
        self._many_s: float | None = None  # a round of many windows
        self._each_s: float | None = None  # a window in a round of many

    @property
    def known(self) -> bool:
        """Whether any round was observed."""
        return self._lone_s is not None or self._many_s is not None

    def observe(self, windows: int, wall_s: float) -> None:
        """Add a round of ``windows`` windows that took ``wall_s`` seconds."""
        if windows == 1:
            self._lone_s = self._smooth(self._lone_s, wall_s)
        else:
            self._many_s = self._smooth(self._many_s, wall_s)
            self._each_s = self._smooth(self._each_s, wall_s / windows)

    def estimate_s(self, cost: Cost) -> float:
        """Estimated seconds for a strategy of this cost; 0 while nothing was observed.

        If only one kind of round was observed, the other is estimated by its upper bound: many windows as if
        run one after another, one window as if it took as long as a round of many.
        """
        lone_s = self._many_s if self._lone_s is None else self._lone_s
        each_s = self._lone_s if self._each_s is None else self._each_s
        if lone_s is None or each_s is None:
            return 0.0
        return cost.lone_rounds * lone_s + (cost.calls - cost.lone_rounds) * each_s

    def _smooth(self, before: float | None, now: float) -> float:
        return now if before is None else before + self._weight * (now - before)
