"""Strategies: which passages a model sees together, and how its orders become one order.

Each strategy is a deterministic generator without I/O (see ranking.windows). It makes no call for fewer than
two passages. If every window is sent back as it was shown, the result is the input order. The first
``sizes.top_n`` of the final order depend only on the first ``needed`` of each window's order; but for funnel,
which narrows long lists by the cheaper guess of the others.
"""

from __future__ import annotations

from collections.abc import Callable

from dear_serving.ranking.strategies.blitz import blitz
from dear_serving.ranking.strategies.cascade import cascade, pointwise
from dear_serving.ranking.strategies.deepen import deepen
from dear_serving.ranking.strategies.funnel import funnel
from dear_serving.ranking.strategies.joint import joint
from dear_serving.ranking.strategies.merge2 import merge2
from dear_serving.ranking.strategies.single import single
from dear_serving.ranking.strategies.sliding import sliding
from dear_serving.ranking.strategies.tourrank import tourrank
from dear_serving.ranking.windows import Sizes, Strategy

__all__ = [
    "ADAPTIVE",
    "FIRST_STAGE",
    "STRATEGIES",
    "blitz",
    "cascade",
    "deepen",
    "funnel",
    "joint",
    "merge2",
    "pointwise",
    "single",
    "sliding",
    "tourrank",
]

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "single": single,
    "sliding": sliding,
    "merge2": merge2,
    "joint": joint,
    "tourrank": tourrank,
    "funnel": funnel,
    "blitz": blitz,
    "deepen": deepen,
}
"""The listwise strategies by their public names; called with Sizes, and joint and blitz with options of their
own."""

ADAPTIVE = frozenset({"blitz", "deepen"})
"""Strategies whose windows depend on the orders of the windows before; the others are planned ahead."""

FIRST_STAGE: dict[str, Callable[[Sizes, int], Strategy]] = {"pointwise": pointwise, "cascade": cascade}
"""Those that begin with the first stage's scores, by their public names; they take the number of passes."""
