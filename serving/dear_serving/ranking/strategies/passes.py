"""Runs the same strategy several times, on differently shuffled passages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from dear_serving.ranking.windows import Batch, Strategy, Window, moved
from dear_serving.types import Order


def self_consistent(
    make: Callable[[], Strategy], count: int, passes: int, seed: int = 0, *, top_n: int | None = None
) -> Strategy:
    """Run ``passes`` strategies in lockstep, the first on the given order, the others on seeded shuffles, and
    order the passages by their mean rank over the passes.

    Makes ``passes`` times the calls of one pass in the same number of rounds; passes of a strategy that
    adapts to the orders may each take another number. Ranks from ``top_n`` on all count as ``top_n``, because
    the strategies only guess them. Ties are ordered as in the first pass.

    A window that could not be ranked in time comes back as it was shown. In the first pass that is the
    first-stage order; in a shuffled pass it is a random order. So a shuffled pass is ignored if all its
    windows came back as shown (in their first ``needed`` ranks). If it lost only some windows, it counts,
    with noise.

    Args:
        make: builds the strategy of one pass.
        count: passages to order, >= 0.
        passes: >= 1; 1 returns the strategy itself.
        seed: seed of the shuffles.
        top_n: the top_n of the strategies' sizes (None: ``count``).

    Raises:
        ValueError: fewer than 1 pass.

    Source: permutation self-consistency, arXiv 2310.07712, with the mean rank in place of its Kemeny order.
    """
    if passes < 1:
        raise ValueError(f"passes must be at least 1, got {passes}")
    if passes == 1:
        return make()
    return _run([make() for _ in range(passes)], _shuffles(count, passes, seed), top_n or count)


def _shuffles(count: int, passes: int, seed: int) -> list[Order]:
    """For each pass, the order of the passages it starts with."""
    generator = random.Random(seed)
    given = list(range(count))
    return [tuple(given)] + [tuple(generator.sample(given, count)) for _ in range(passes - 1)]


def _run(strategies: Sequence[Strategy], given: Sequence[Order], top_n: int) -> Strategy:
    votes = [index == 0 for index in range(len(strategies))]
    finals: list[Order] = [()] * len(strategies)
    answers: dict[int, Sequence[Order] | None] = dict.fromkeys(range(len(strategies)))
    while True:
        batches: dict[int, Batch] = {}  # of the passes that go on
        for index, answer in answers.items():
            try:
                strategy = strategies[index]
                batches[index] = next(strategy) if answer is None else strategy.send(answer)
            except StopIteration as done:
                finals[index] = done.value
        if not batches:
            break
        windows = [
            Window(tuple(given[index][place] for place in window.passages), window.needed)
            for index, batch in batches.items()
            for window in batch.windows
        ]
        orders = iter((yield Batch(tuple(windows))))
        answers = {index: [next(orders) for _ in batch.windows] for index, batch in batches.items()}
        for index, batch in batches.items():
            votes[index] |= any(map(moved, batch.windows, answers[index] or ()))
    ranks = [
        _ranks([order[place] for place in final], top_n)
        for final, order, vote in zip(finals, given, votes, strict=True)
        if vote
    ]
    # Sort by the sum of capped ranks, then by the capped ranks of each pass, then by the first pass.
    first = {passage: rank for rank, passage in enumerate(finals[0])}

    def key(passage: int) -> tuple[int, list[int], int]:
        capped = [ranks_of_pass[passage] for ranks_of_pass in ranks]
        return sum(capped), capped, first[passage]

    return tuple(sorted(first, key=key))


def _ranks(best_first: Sequence[int], top_n: int) -> dict[int, int]:
    return {passage: min(rank, top_n) for rank, passage in enumerate(best_first)}
