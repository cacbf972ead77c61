"""A tournament that plays only the windows that can still change the head."""

from __future__ import annotations

from collections.abc import Sequence

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.tournament import Tournament
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window, moved, places
from dear_serving.types import Order


def blitz(sizes: Sizes, *, looks: int = 2, most: int | None = None) -> Strategy:
    """Take every window's order as wins, carry the wins over, and show only passages that may still belong
    to the first ``top_n``, until these are certain. Then show the head again, and order it by the sum of
    ranks.

    The first round shows all passages in ``groups = ceil(count / window)`` striped windows. A later round
    shows, of the passages with fewer than ``top_n`` losses that are not settled, those with the fewest
    losses: ``ceil(top_n / window)`` windows side by side, more while more than a window of them is unbeaten.
    Where orders contradict each other, the more frequent one counts, then the later one; of passages that
    beat each other in a circle one stands for all. If the first ``top_n`` are not certain after
    ``most_calls(sizes)`` windows, the best order so far is taken.

    100 passages with a window of 20 take about 7 windows in 3 rounds for the first 10, one of them the
    second look, and show 136 passages; the first 100 take about 15 windows. Passages that fit one window take
    one.

    Args:
        sizes: the sizes to plan for.
        looks: how often the head is shown, >= 1. The head is half as many again as ``top_n``, at most a
            window. In simulation the second look is worth one to four points of nDCG@10, the
            third half a point to one and a half.
        most: most windows in all, at least those of the first round and one for each look; None:
            ``most_calls(sizes)``.

    Raises:
        ValueError: illegal sizes or fewer than 1 look.

    Source: BlitzRank, arXiv 2602.05448, which plays one window at a time and has no second look.
    """
    check_sizes(sizes)
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    bound = most_calls(sizes, looks)
    return _run(sizes, looks, bound if most is None else min(most, bound))


def most_calls(sizes: Sizes, looks: int = 2) -> int:
    """More windows than this are never shown, whatever the orders."""
    groups = -(-sizes.count // sizes.window)
    return groups if groups < 2 else 4 * groups + 3 + looks


def _run(sizes: Sizes, looks: int, most: int) -> Strategy:
    everything = tuple(range(sizes.count))
    if sizes.count < 2:
        return everything
    if sizes.count <= sizes.window:
        (order,) = yield Batch((Window(everything, sizes.top_n),), leads=True)
        return order
    tournament = Tournament(sizes.count)
    size = min(sizes.window, sizes.count, max(2, sizes.top_n + -(-sizes.top_n // 2)))  # of the head
    news = False  # whether any window contradicts the first stage
    left = most - (looks - 1)
    shown = _striped(everything, -(-sizes.count // sizes.window))
    needed = sizes.top_n  # later windows also decide who else is in the head
    while shown:
        windows = tuple(Window(group, min(needed, len(group))) for group in shown if len(group) > 1)
        orders = yield Batch(windows)
        for window, ranked in zip(windows, orders, strict=True):
            tournament.observe(window.passages, ranked, window.needed)
        tournament.settle()
        news |= any(map(moved, windows, orders))
        left, needed = left - len(windows), size
        shown = _undecided(tournament, sizes)[: max(0, left)]
    order = tuple(tournament.best_first()) if news else everything
    head = order[:size]
    ranks = {passage: float(rank) for rank, passage in enumerate(head)}
    for _ in range(looks - 1):
        again = tuple(sorted(head, key=ranks.__getitem__))
        window = Window(again, min(sizes.top_n, size))
        (ranked,) = yield Batch((window,))
        for place, rank in zip(ranked, places(size, window.needed), strict=True):
            ranks[again[place]] += rank
    return (*sorted(head, key=ranks.__getitem__), *order[size:])


def _undecided(tournament: Tournament, sizes: Sizes) -> list[Order]:
    """The windows of the next round; none if the first ``top_n`` are certain."""
    best_first = tournament.best_first()
    if all(map(tournament.is_settled, best_first[: sizes.top_n])):
        return []
    found: list[int] = []
    stood_for = unbeaten = 0
    for passage in best_first:
        losses = tournament.losses[passage]
        if losses >= sizes.top_n:
            break
        if not tournament.is_settled(passage) and not stood_for >> passage & 1:
            stood_for |= tournament.tier(passage)
            unbeaten += not losses
            found.append(passage)
    if unbeaten > sizes.window:
        return _striped(found[:unbeaten], -(-unbeaten // sizes.window))
    width = sizes.window
    windows = [tuple(found[start : start + width]) for start in range(0, len(found), width)]
    return [window for window in windows[: -(-sizes.top_n // width)] if len(window) > 1]


def _striped(passages: Sequence[int], groups: int) -> list[Order]:
    return [tuple(passages[group::groups]) for group in range(groups)]
