"""What a strategy costs, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear_serving.ranking.windows import Strategy
from dear_serving.types import Order


@dataclass(frozen=True, slots=True)
class Cost:
    """Windows ranked, rounds one after the other, and passages shown in all windows together.

    ``lone_rounds`` are the rounds of a single window.
    """

    calls: int
    rounds: int
    shown: int
    lone_rounds: int


def cost(strategy: Strategy) -> Cost:
    """Run ``strategy`` to its end without a model; no strategy's cost depends on the orders it is sent."""
    sizes: list[list[int]] = []
    orders: Sequence[Order] | None = None
    try:
        while True:
            batch = next(strategy) if orders is None else strategy.send(orders)
            sizes.append([len(window.passages) for window in batch.windows])
            orders = [tuple(range(size)) for size in sizes[-1]]
    except StopIteration:
        return Cost(
            calls=sum(map(len, sizes)),
            rounds=len(sizes),
            shown=sum(map(sum, sizes)),
            lone_rounds=sum(len(round_) == 1 for round_ in sizes),
        )
