"""A window that moves from the last passages to the first."""

from __future__ import annotations

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window


def sliding(sizes: Sizes) -> Strategy:
    """A window that moves from the last passages to the first and carries the best ones along.

    ``1 + max(0, ceil((count - window) / step))`` calls, each a round of its own; none for fewer than two
    passages. The last window is moved to start at passage 0 instead of being left out or cut short, so
    every passage is seen for every count. What two windows share is decided one by one, and so are ranks
    below ``top_n`` that no later window can change.

    Raises:
        ValueError: illegal sizes; a step over the window would leave passages unseen.

    Source: RankGPT, arXiv 2304.09542, whose published loop skips the head where the step does not divide.
    """
    check_sizes(sizes)
    return _run(sizes)


def _run(sizes: Sizes) -> Strategy:
    order = list(range(sizes.count))
    if sizes.count < 2:
        return tuple(order)
    start = max(0, sizes.count - sizes.window)
    while True:
        shown = tuple(order[start : start + sizes.window])
        following = max(0, start - sizes.step)
        carried = following + sizes.window - start if start else 0
        needed = max(1, carried, min(sizes.top_n - start, len(shown)))
        (ranks,) = yield Batch((Window(shown, needed),), leads=start == 0)
        order[start : start + sizes.window] = [shown[rank] for rank in ranks]
        if start == 0:
            return tuple(order)
        start = following
