"""For very long lists: one forward pass a window narrows them, then the head is ranked listwise."""

from __future__ import annotations

from dear_serving.ranking.strategies.joint import joint
from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.strategies.within import within
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window

_HEAD_WINDOWS = 10
_LEAST_KEPT = 2


def funnel(sizes: Sizes) -> Strategy:
    """Narrow the list by rounds of windows that decide one rank each, then rank the ``head`` as ``joint``.

    A window that decides one rank takes about one forward pass, whose probabilities order its other passages.
    Each round keeps as many as the head, but at least two of each window (and at most half of all): one alone
    would lose a passage that shares its window with a better one. 10,000 passages with a window of 20 take
    500 windows, then 50, then 30 for the head of 200. The passages that a round drops follow those it keeps,
    ordered by their place in their windows, then by first-stage position.

    Raises:
        ValueError: illegal sizes.
    """
    check_sizes(sizes)
    return _run(sizes)


def head(sizes: Sizes) -> int:
    """How many of the best passages are ranked listwise: ten windows of them."""
    return min(sizes.count, _HEAD_WINDOWS * sizes.window)


def _run(sizes: Sizes) -> Strategy:
    entrants = tuple(range(sizes.count))
    behind: list[int] = []
    most = head(sizes)
    while len(entrants) > most:
        count = -(-len(entrants) // sizes.window)
        groups = [entrants[group::count] for group in range(count)]
        orders = yield Batch(tuple(Window(group, 1) for group in groups if len(group) > 1))
        for group, order in enumerate(orders):  # a group of one passage comes last and has no order
            groups[group] = tuple(groups[group][rank] for rank in order)
        ranked = sorted((rank, passage) for group in groups for rank, passage in enumerate(group))
        kept = max(most, min(_LEAST_KEPT * count, len(entrants) // 2))
        behind[:0] = [passage for _, passage in ranked[kept:]]
        entrants = tuple(passage for _, passage in ranked[:kept])
    head_sizes = Sizes(len(entrants), sizes.window, sizes.step, max(1, min(sizes.top_n, len(entrants))))
    best = yield from within(entrants, joint(head_sizes))
    return best + tuple(behind)
