"""Plays strategies without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from dear_serving.ranking.windows import Batch, Sizes, Strategy, Window
from dear_serving.types import Order

Decide = Callable[[Window], Sequence[int]]


def as_shown(window: Window) -> Sequence[int]:
    """What is sent back for a window that ran out of time."""
    return range(len(window.passages))


def by(best_first: Sequence[int]) -> Decide:
    """Sorts every window by the true order of all passages."""
    truth = {passage: rank for rank, passage in enumerate(best_first)}
    return lambda window: sorted(range(len(window.passages)), key=lambda shown: truth[window.passages[shown]])


def noisy(seed: int) -> Decide:
    """Any order, always the same one for the same window; two windows may contradict each other."""

    def decide(window: Window) -> Sequence[int]:
        order = list(range(len(window.passages)))
        random.Random(f"{seed} {window.passages}").shuffle(order)
        return order

    return decide


def guessing_the_rest(decide: Decide, seed: int) -> Decide:
    """As ``decide`` for the ``needed`` best, the others shuffled."""
    generator = random.Random(seed)

    def guess(window: Window) -> Sequence[int]:
        order = list(decide(window))
        rest = order[window.needed :]
        generator.shuffle(rest)
        return order[: window.needed] + rest

    return guess


def play(strategy: Strategy, decide: Decide) -> tuple[Order, list[Batch]]:
    """The final order and all batches, each window decided by ``decide``."""
    batches: list[Batch] = []
    try:
        batch = next(strategy)
        while True:
            batches.append(batch)
            batch = strategy.send([tuple(decide(window)) for window in batch.windows])
    except StopIteration as done:
        return done.value, batches


@st.composite
def sizes_of_lists(draw: st.DrawFn, max_count: int = 150) -> Sizes:
    """Legal sizes_of_lists, small windows (many rounds) included."""
    window = draw(st.integers(2, 40))
    count = draw(st.integers(0, max_count))
    return Sizes(count, window, draw(st.integers(1, window)), draw(st.integers(1, max(1, count))))
