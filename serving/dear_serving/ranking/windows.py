"""Strategies: which passages a model sees together, and how its orders become one order.

A strategy is a generator without I/O. It yields a Batch of independent windows, is sent their orders
(for each window a permutation of ``range(len(window))``), and returns the final order of all passages.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from dear_serving.types import Order

Window = tuple[int, ...]
"""Indices of the passages shown together, in the order they are shown."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows that may run at the same time, and the order to answer with if none of them can."""

    windows: tuple[Window, ...]
    order_so_far: Order


Strategy = Generator[Batch, Sequence[Order], Order]


def single(count: int) -> Strategy:
    """All passages in one window: 1 call in 1 round, none for fewer than two passages.

    Args:
        count: number of passages, >= 0.
    """
    everything = tuple(range(count))
    if count < 2:
        return everything
    (order,) = yield Batch((everything,), everything)
    return tuple(everything[rank] for rank in order)


def sliding(count: int, *, window: int, step: int) -> Strategy:
    """A window that moves from the last passages to the first, carrying the best ones along.

    ``1 + ceil((count - window) / step)`` calls, each a round of its own; one call when the passages fit
    one window, none for fewer than two. The last window is moved to start at passage 0 instead of being
    left out or cut short, so every passage is seen for every count.

    Args:
        count: number of passages, >= 0.
        window: passages shown together, >= 2.
        step: how far the window moves, in ``range(1, window + 1)``.

    Raises:
        ValueError: window or step out of range; a step over the window would leave passages unseen.

    Source: RankGPT, arXiv 2304.09542, whose published loop skips the head where the step does not divide.
    """
    if window < 2 or not 1 <= step <= window:
        raise ValueError(f"need window >= 2 and 1 <= step <= window, got {window} and {step}")
    order = list(range(count))
    if count < 2:
        return tuple(order)
    start = max(0, count - window)
    while True:
        shown = tuple(order[start : start + window])
        (ranks,) = yield Batch((shown,), tuple(order))
        order[start : start + window] = [shown[rank] for rank in ranks]
        if start == 0:
            return tuple(order)
        start = max(0, start - step)


STRATEGIES: dict[str, Callable[[int, int, int], Strategy]] = {
    "single": lambda count, window, step: single(count),
    "sliding": lambda count, window, step: sliding(count, window=window, step=step),
}
"""Every strategy by its public name, called with count, window and step."""


def choose(count: int, window: int) -> str:
    """The strategy for a caller who names none: one window while the passages fit it, else sliding."""
    return "single" if count <= window else "sliding"
