"""The interface of a strategy: windows, batches and sizes.

A strategy is a generator without I/O. It yields a Batch of independent windows, receives their orders (for
each window a permutation of ``range(len(window.passages))``), and returns the final order of all passages.
A window that could not be ranked in time is sent back in the order it was shown. Therefore a strategy shows
the passages of a window in its best order so far.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from dear_serving.types import Order


@dataclass(frozen=True, slots=True)
class Window:
    """Passages shown together.

    ``passages`` are indices into the task, in the order they are shown. The best ``needed`` have to be
    decided one by one; the order of the others may be a cheaper guess.
    """

    passages: tuple[int, ...]
    needed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows that may run at the same time.

    ``leads``: the order of the only window is the start of the final order, so that its ranks can be
    streamed to the caller as they are decided. ``pointwise``: the first stage reads each passage of the only
    window alone, and its scores are the order; ``needed`` has no meaning then.
    """

    windows: tuple[Window, ...]
    leads: bool = False
    pointwise: bool = False


Strategy = Generator[Batch, Sequence[Order], Order]


def moved(window: Window, order: Sequence[int]) -> bool:
    """Whether the needed ranks differ from the order shown."""
    return tuple(order[: window.needed]) != tuple(range(window.needed))


def places(size: int, needed: int) -> list[float]:
    """The places of a window's order, from 0; those behind the ``needed`` best are level, at their mean."""
    return [place if place < needed else (needed + size - 1) / 2 for place in range(size)]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes that a strategy is planned for.

    Args:
        count: passages to order, >= 0.
        window: maximum passages per window, >= 2.
        step: how far a sliding window moves, in ``range(1, window + 1)``.
        top_n: how many of the best passages the caller wants, in ``range(1, count + 1)``; the order of the
            others may be a guess.
        depth: how many of the first stage's best ``cascade`` ranks listwise; other strategies ignore it.
    """

    count: int
    window: int
    step: int
    top_n: int
    depth: int = 0
