"""A window that moves from the last passages to the first."""

from __future__ import annotations

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window


def sliding(sizes: Sizes) -> Strategy:
    """Move a window from the last passages to the first, carrying the best passages along.

    ``1 + max(0, ceil((count - window) / step))`` calls, one per round; none for fewer than two passages. The
    last window always starts at passage 0, so every passage is seen for every count. A window decides one by
    one the ranks that the next window takes over, and the ranks within ``top_n`` that no later window can
    change.

    Raises:
        ValueError: illegal sizes; a step larger than the window would leave passages unseen.

    Source: RankGPT, arXiv 2304.09542. Its published loop skips the first passages if the step does not divide
    the list.
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
