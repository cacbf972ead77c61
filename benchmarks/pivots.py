"""Strategies with pivots, which were tried in simulation and are not served: they lose to ``blitz``.

A pivot is a passage that every window shows: those behind it need not be looked at again. It may be one of
the list (TDPart, arXiv 2405.14589), or a text that a model writes for the query as one that is just relevant
(PSI-Rank, arXiv 2604.09492), here the oracle's passage number ``count``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from dear_serving.ranking.strategies import sliding
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window
from dear_serving.types import Order

Part = Generator[Batch, Sequence[Order], list[int]]


def written_pivot(sizes: Sizes) -> Strategy:
    """PSI-Rank's SNOW: windows side by side that share a written pivot, then the passages before it by a
    sliding window. If they are fewer than ``top_n``, the first ones behind it make up for them."""
    pivot = sizes.count
    before, behind = yield from _split(range(sizes.count), pivot, sizes)
    short = max(0, sizes.top_n - len(before))
    head = yield from _slide([*before, *behind[:short]], sizes)
    return (*head, *behind[short:])


def stride_by_pivot(sizes: Sizes) -> Strategy:
    """PSI-Rank's sliding window with a written pivot: only passages before the pivot are carried on, so that
    a window moves the further the fewer they are."""
    pivot = sizes.count
    left, room = list(range(sizes.count)), sizes.window - 1
    carried: list[int] = []
    behind: list[int] = []
    while left:
        new = left[-(room - len(carried)) :]
        del left[-len(new) :]
        shown = (*new, *carried, pivot)
        (order,) = yield Batch((Window(shown, min(sizes.top_n, len(shown))),))
        ranked = [shown[place] for place in order]
        cut = ranked.index(pivot)
        kept = cut if not left else min(cut, sizes.window - sizes.step)
        carried, lost = ranked[:kept], [one for one in ranked[kept:] if one != pivot]
        behind[:0] = lost
    return (*carried, *behind)


def pivot_of_the_list(sizes: Sizes) -> Strategy:
    """TDPart: the first window's passage at rank ``top_n`` is the others' pivot, then a sliding window."""
    first = tuple(range(sizes.window))
    (order,) = yield Batch((Window(first, sizes.top_n),))
    head, pivot = [*order[: sizes.top_n - 1]], order[sizes.top_n - 1]
    before, behind = yield from _split(range(sizes.window, sizes.count), pivot, sizes)
    head = yield from _slide([*head, *before], sizes)
    return (*head, pivot, *order[sizes.top_n :], *behind)


def _split(
    passages: Sequence[int], pivot: int, sizes: Sizes
) -> Generator[Batch, Sequence[Order], tuple[list[int], list[int]]]:
    """The passages before the pivot and those behind it, in striped windows side by side."""
    groups = -(-len(passages) // (sizes.window - 1))
    shown = [(*passages[group::groups], pivot) for group in range(groups)]
    orders = yield Batch(tuple(Window(one, len(one)) for one in shown))
    before: list[tuple[int, int]] = []
    behind: list[tuple[int, int]] = []
    for one, order in zip(shown, orders, strict=True):
        ranked = [one[place] for place in order]
        cut = ranked.index(pivot)
        before += enumerate(ranked[:cut])
        behind += enumerate(ranked[cut + 1 :])
    return _by_place(before), _by_place(behind)


def _by_place(placed: list[tuple[int, int]]) -> list[int]:
    return [passage for _, passage in sorted(placed)]


def _slide(passages: list[int], sizes: Sizes) -> Part:
    """The passages after a sliding window went over them."""
    top_n = max(1, min(sizes.top_n, len(passages)))
    within = sliding(Sizes(len(passages), sizes.window, sizes.step, top_n))
    orders: Sequence[Order] | None = None
    try:
        while True:
            batch = next(within) if orders is None else within.send(orders)
            orders = yield Batch(
                tuple(
                    Window(tuple(passages[place] for place in window.passages), window.needed)
                    for window in batch.windows
                )
            )
    except StopIteration as done:
        return [passages[place] for place in done.value]
