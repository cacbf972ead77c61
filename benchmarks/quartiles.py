"""Medians with their quartiles, of figures and of ratios taken pair by pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The middle of some figures: 25%, 50% and 75% lie at or below ``low``, ``median`` and ``high``."""

    low: float
    median: float
    high: float
    count: int

    def text(self, digits: int = 2, unit: str = "") -> str:
        """For a table: ``3.61x (3.40 to 3.74)``; a lone figure has no quartiles."""
        middle = f"{self.median:.{digits}f}{unit}"
        return middle if self.count < 2 else f"{middle} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles of at least one figure, interpolated between neighbours (numpy's default method).

    Raises:
        ValueError: there is no figure.
    """
    if not values:
        raise ValueError("no figures")
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(low, median, high, len(values))


def pairwise_ratios(measured: Sequence[float], reference: Sequence[float]) -> list[float]:
    """``measured[i] / reference[i]``: two arms measured in turn, so that both of a pair saw the same machine.

    Raises:
        ValueError: the arms have not the same number of figures.
    """
    return [ours / theirs for ours, theirs in zip(measured, reference, strict=True)]


def percentile(values: Sequence[float], share: float) -> float:
    """The figure below which ``share`` (0 to 1) of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
