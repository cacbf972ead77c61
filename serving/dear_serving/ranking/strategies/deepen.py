"""From the head down the list, until the head no longer changes."""

from __future__ import annotations

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window, places
from dear_serving.types import Order

_QUIET_WINDOWS = 2
_QUIET_SHARE = 0.1


def deepen(sizes: Sizes) -> Strategy:
    """Show the best ``window - step`` passages so far beside the next ``step`` of the list, and stop when two
    windows in a row brought no more than a tenth of the head (rounded down) into it. Then show the best
    once more, without others.

    Passages are ordered by their mean place in the windows that showed them, as a share of the window, so
    the head is looked at again each time. ``2 + ceil((count - window) / step)`` calls at most, one a round;
    1 if all fit one window; none for fewer than two passages. At least ``2 * top_n`` passages are read; those
    that are not keep their order, at the end. So it saves tokens where the first stage is good, and none if
    all ranks are asked for.

    The head is ``min(top_n, window - step)`` passages, at least one. Behind it come those that were in it,
    then the others by the window that showed them. In simulation the last look is worth one to three points
    of nDCG@10: it undoes the luck of passages that one window put first.

    Raises:
        ValueError: illegal sizes.

    Source: our own; RankGPT's window (arXiv 2304.09542) the other way round.
    """
    check_sizes(sizes)
    return _run(sizes)


def _run(sizes: Sizes) -> Strategy:
    everything = tuple(range(sizes.count))
    if sizes.count < 2:
        return everything
    carried = max(1, sizes.window - sizes.step)
    watched = min(sizes.top_n, carried)
    if sizes.count <= sizes.window:
        (order,) = yield Batch((Window(everything, sizes.top_n),), leads=True)
        return order
    shares: dict[int, list[float]] = {}
    best: list[int] = []  # carried on
    were_best: set[int] = set()
    others: list[int] = []  # those that never were
    read = quiet = 0

    def look(shown: Order, order: Order, needed: int) -> None:
        for place, rank in zip(order, places(len(shown), needed), strict=True):
            shares.setdefault(shown[place], []).append(rank / (len(shown) - 1))

    def mean(passage: int) -> tuple[float, int]:
        return sum(shares[passage]) / len(shares[passage]), passage

    while read < sizes.count and (quiet < _QUIET_WINDOWS or read < 2 * sizes.top_n):
        new = everything[read : read + sizes.window - len(best)]
        shown = (*best, *new)
        needed = min(len(shown), max(carried, sizes.top_n))
        (order,) = yield Batch((Window(shown, needed),))
        look(shown, order, needed)
        before = best[:watched]
        best_first = sorted(shown, key=mean)
        best = best_first[:carried]
        were_best.update(best)
        others += [passage for passage in best_first[carried:] if passage not in were_best]
        entered = len(set(best[:watched]).difference(before))
        quiet = quiet + 1 if read and entered <= int(_QUIET_SHARE * watched) else 0
        read += len(new)
    if len(best) > 1:
        shown, needed = tuple(best), min(len(best), sizes.top_n)
        (order,) = yield Batch((Window(shown, needed),))
        look(shown, order, needed)
    head = sorted(best, key=mean)
    return (*head, *sorted(were_best.difference(head), key=mean), *others, *everything[read:])
