"""One window for all passages."""

from __future__ import annotations

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window


def single(sizes: Sizes) -> Strategy:
    """Rank all passages in one window, however many: 1 call in 1 round, none for fewer than two.

    The only strategy that ignores ``sizes.window``: for models trained on longer lists, or to measure the
    loss on others.

    Raises:
        ValueError: illegal sizes.

    Source: listwise prompts as in LRL, arXiv 2305.02156, and RankGPT, arXiv 2304.09542, for lists that fit
    the model.
    """
    check_sizes(sizes)
    return _run(sizes)


def _run(sizes: Sizes) -> Strategy:
    everything = tuple(range(sizes.count))
    if sizes.count < 2:
        return everything
    (order,) = yield Batch((Window(everything, sizes.top_n),), leads=True)
    return tuple(everything[rank] for rank in order)
