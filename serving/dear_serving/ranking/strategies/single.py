"""One window for all."""

from __future__ import annotations

from dear_serving.ranking.strategies.shapes import check
from dear_serving.ranking.windows import Batch, Strategy, Window, Windowing


def single(shape: Windowing) -> Strategy:
    """All passages in one window, however many they are: 1 call in 1 round, none for fewer than two.

    The only strategy that does not keep to ``shape.window``: for a model that was trained on the longer
    list, or to measure that it was not.

    Raises:
        ValueError: an illegal shape.

    Source: listwise prompts as in LRL, arXiv 2305.02156, and RankGPT, arXiv 2304.09542, for lists that fit
    the model.
    """
    check(shape)
    return _run(shape)


def _run(shape: Windowing) -> Strategy:
    everything = tuple(range(shape.count))
    if shape.count < 2:
        return everything
    (order,) = yield Batch((Window(everything, shape.top_n),), leads=True)
    return tuple(everything[rank] for rank in order)
