"""Two stages: every passage read alone by a cheap first stage, then the best of them listwise."""

from __future__ import annotations

from functools import partial

from dear_serving.ranking.strategies.joint import joint
from dear_serving.ranking.strategies.passes import self_consistent
from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.strategies.within import within
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window
from dear_serving.types import Order


def pointwise(sizes: Sizes, passes: int = 1) -> Strategy:
    """Order by the first stage's scores alone: 1 round, no window. A lone passage is read too, for its score.

    Raises:
        ValueError: illegal sizes.
    """
    check_sizes(sizes)
    return _scored(sizes.count)


def cascade(sizes: Sizes, passes: int = 1) -> Strategy:
    """Order by the first stage's scores, then rank the best ``sizes.depth`` as ``joint``; the others follow
    in the order of their scores.

    One round of scores, and the calls of ``joint`` for ``min(depth, count)`` passages in 1 round, times
    ``passes``: one window where they fit one.

    Args:
        sizes: the sizes to plan for.
        passes: as in self_consistent, of the listwise stage; a score is the same every time.

    Raises:
        ValueError: illegal sizes.

    Source: DeAR, arXiv 2508.16998, whose pointwise stage precedes the listwise one.
    """
    check_sizes(sizes)
    return _run(sizes, passes)


def _run(sizes: Sizes, passes: int) -> Strategy:
    order = yield from _scored(sizes.count)
    best, others = order[: sizes.depth], order[sizes.depth :]
    head = Sizes(len(best), sizes.window, sizes.step, max(min(1, len(best)), min(sizes.top_n, len(best))))
    make = partial(joint, head)
    ranked = yield from within(best, self_consistent(make, len(best), passes, top_n=head.top_n))
    return ranked + others


def _scored(count: int) -> Strategy:
    everything: Order = tuple(range(count))
    if not everything:
        return everything
    (order,) = yield Batch((Window(everything, 0),), pointwise=True)
    return order
