"""Overlapping blocks, all in one round."""

from __future__ import annotations

import random
from collections.abc import Iterator

from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window
from dear_serving.types import Order


def joint(sizes: Sizes, *, looks: int = 3, final: bool = False) -> Strategy:
    """Show every passage in ``looks`` blocks, each time with other passages. Passages are ordered by the
    share of comparisons they won, ties by first-stage position.

    ``looks * ceil(count / window)`` calls in 1 round; 1 call if the passages fit one window; none for fewer
    than two. ``final`` adds 1 call and 1 round that ranks the best ``window`` passages again; that order
    replaces theirs.

    A block decides twice its share of the ``top_n``, plus 6; the ranks below count as ties. In simulation
    that is enough: for 100 passages, 10 of 20 give the same nDCG@10 as all 20.

    Args:
        sizes: the sizes to plan for.
        looks: how often each passage is shown, >= 1 (some of the last passages once more, to fill blocks).
        final: whether to rank the best passages again. In simulation this costs quality, because one noisy
            window replaces the mean of three; the option exists to measure it on a real model.

    Raises:
        ValueError: illegal sizes or fewer than 1 look.

    Source: JointRank, arXiv 2506.22262, aggregation by win rate. The block design is our own: see _blocks.
    """
    check_sizes(sizes)
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    return _run(sizes, looks, final)


def _run(sizes: Sizes, looks: int, final: bool) -> Strategy:
    everything = tuple(range(sizes.count))
    if sizes.count < 2:
        return everything
    if sizes.count <= sizes.window:
        (order,) = yield Batch((Window(everything, sizes.top_n),), leads=True)
        return order
    blocks = [block for look in range(looks) for block in _blocks(sizes, look)]
    others = len(blocks[0]) - 1
    needed = min(len(blocks[0]), -(-2 * sizes.top_n * len(blocks[0]) // sizes.count) + 6)
    orders = yield Batch(tuple(Window(block, needed) for block in blocks))
    won, compared = [0.0] * sizes.count, [0] * sizes.count
    for block, ranks in zip(blocks, orders, strict=True):
        for rank, shown in enumerate(ranks):
            won[block[shown]] += others - rank if rank < needed else (others - needed) / 2
            compared[block[shown]] += others
    best_first = sorted(everything, key=lambda passage: (-won[passage] / compared[passage], passage))
    if not final:
        return tuple(best_first)
    head = tuple(best_first[: sizes.window])
    (ranks,) = yield Batch((Window(head, min(sizes.top_n, len(head))),), leads=True)
    return tuple(head[rank] for rank in ranks) + tuple(best_first[sizes.window :])


def _blocks(sizes: Sizes, look: int) -> Iterator[Order]:
    """G equal blocks that show every passage: each holds one of the first G passages, one of the next G, and
    so on, in first-stage order.

    So every block spans the first-stage order, and win rates are comparable between blocks. Two blocks of
    different looks share ``count / G ** 2`` passages on average, so the comparisons connect all passages.
    Look 0 deals passages in stripes, the other looks by a seeded shuffle, which works for every G. A lattice
    of shifts spreads pairs evenly only for prime G, and is not better in simulation. Passages of the last row
    are used more than once if they are too few to fill it.
    """
    groups = -(-sizes.count // sizes.window)
    generator = random.Random(look)
    blocks: list[list[int]] = [[] for _ in range(groups)]
    for start in range(0, sizes.count, groups):
        row = range(start, min(start + groups, sizes.count))
        dealt = [row[place % len(row)] for place in range(groups)]
        if look:
            generator.shuffle(dealt)
        for block, passage in zip(blocks, dealt, strict=True):
            block.append(passage)
    return map(tuple, blocks)
