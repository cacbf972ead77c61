"""Strategies: which passages a model sees together, and how its orders become one order.

Every one is a generator without I/O (see ranking.windows), deterministic, and needs fewer than two passages
not ranked at all. With every window sent back as it was shown, the answer is the input order. The first
``sizes.top_n`` of the final order depend on no more of a window's order than its ``needed``.
"""

from __future__ import annotations

from collections.abc import Callable

from dear_serving.ranking.strategies.joint import joint
from dear_serving.ranking.strategies.merge2 import merge2
from dear_serving.ranking.strategies.single import single
from dear_serving.ranking.strategies.sliding import sliding
from dear_serving.ranking.strategies.tourrank import tourrank
from dear_serving.ranking.windows import Sizes, Strategy

__all__ = ["STRATEGIES", "joint", "merge2", "single", "sliding", "tourrank"]

STRATEGIES: dict[str, Callable[[Sizes], Strategy]] = {
    "single": single,
    "sliding": sliding,
    "merge2": merge2,
    "joint": joint,
    "tourrank": tourrank,
}
"""Every strategy by its public name."""
