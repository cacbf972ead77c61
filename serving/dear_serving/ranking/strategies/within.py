"""Runs a strategy on some of a list's passages."""

from __future__ import annotations

from collections.abc import Sequence

from dear_serving.ranking.windows import Batch, Strategy, Window
from dear_serving.types import Order


def within(entrants: Sequence[int], strategy: Strategy) -> Strategy:
    """Run ``strategy``, which orders ``len(entrants)`` passages, on these; returns them in its order."""
    orders: Sequence[Order] | None = None
    try:
        while True:
            batch = next(strategy) if orders is None else strategy.send(orders)
            windows = (
                Window(tuple(entrants[place] for place in window.passages), window.needed)
                for window in batch.windows
            )
            orders = yield Batch(tuple(windows), batch.leads)
    except StopIteration as done:
        return tuple(entrants[place] for place in done.value)
