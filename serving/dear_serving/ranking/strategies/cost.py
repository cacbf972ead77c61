"""The cost of a strategy, computed before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear_serving.ranking.windows import Strategy, Window
from dear_serving.types import Order


@dataclass(frozen=True, slots=True)
class Cost:
    """Windows ranked (``calls``), sequential ``rounds``, and passages ``shown`` in all windows together.

    ``lone_rounds`` counts the rounds with a single window, ``needed`` the ranks that are decided one by one,
    ``scored`` the passages that the first stage reads alone: their round counts, and no other figure.
    """

    calls: int
    rounds: int
    shown: int
    lone_rounds: int
    needed: int
    scored: int = 0


def cost(strategy: Strategy) -> Cost:
    """Run ``strategy`` to its end without a model.

    The last passages are always sent as the best. For strategies that adapt to the orders, this is a
    forecast: of a first stage that has everything the wrong way round, and a model without contradictions.
    """
    sizes: list[list[int]] = []
    needed = scored = 0
    orders: Sequence[Order] | None = None
    try:
        while True:
            batch = next(strategy) if orders is None else strategy.send(orders)
            shown = [len(window.passages) for window in batch.windows]
            sizes.append([] if batch.pointwise else shown)
            needed += sum(window.needed for window in batch.windows)
            scored += sum(shown) if batch.pointwise else 0
            orders = [_order(window) for window in batch.windows]
    except StopIteration:
        return Cost(
            calls=sum(map(len, sizes)),
            rounds=len(sizes),
            shown=sum(map(sum, sizes)),
            lone_rounds=sum(len(round_) == 1 for round_ in sizes),
            needed=needed,
            scored=scored,
        )


def _order(window: Window) -> Order:
    return tuple(sorted(range(len(window.passages)), key=lambda place: -window.passages[place]))
