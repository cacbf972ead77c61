"""One window for all."""

from __future__ import annotations

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window


def single(sizes: Sizes) -> Strategy:
    """All passages in one window, however many they are: 1 call in 1 round, none for fewer than two.

    The only strategy that does not keep to ``sizes.window``: for a model that was trained on the longer
    list, or to measure that it was not.

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
