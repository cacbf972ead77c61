"""Knockout rounds over striped groups, used by merge2 and tourrank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear_serving.ranking.windows import Batch, Strategy, Window
from dear_serving.types import Order


@dataclass(frozen=True, slots=True)
class Stage:
    """One round: ``entrants`` passages in ``groups`` striped groups; the best ``keep`` of each advance.

    Group sizes differ by at most one. The last stage has one group and ``keep`` 0: its order is final.
    """

    entrants: int
    groups: int
    keep: int

    def needed(self, top_n: int) -> int:
        """How many ranks of each group have to be decided: the passages that advance, and those eliminated
        here that belong to the first ``top_n`` of the final order."""
        behind = max(0, top_n - self.groups * self.keep)
        return self.keep + -(-behind // self.groups)


def knockout(stages: Sequence[Stage], top_n: int) -> Strategy:
    """Run ``stages`` one after another, each as a round with one window per group of two passages or more.

    Group g of a stage has its entrants g, g + groups, g + 2 * groups, ..., so that every group spans the
    order so far; contiguous groups lose 2 to 4 points of nDCG@10. Advancing passages enter the next stage
    ordered by rank in their group, then by first-stage position. The final order is the last stage's,
    followed by the eliminated passages: later stages first, ordered by the same rule. Fewer than two
    entrants make no call.
    """
    entrants: Order = tuple(range(stages[0].entrants)) if stages else ()
    behind: list[Order] = []
    for stage in stages:
        groups = [entrants[group :: stage.groups] for group in range(stage.groups)]
        needed = stage.needed(top_n)
        windows = tuple(Window(group, min(needed, len(group))) for group in groups if len(group) > 1)
        if windows:
            orders = yield Batch(windows, leads=stage.keep == 0)
            for group, order in enumerate(orders):  # groups of one passage come last and have no order
                groups[group] = tuple(groups[group][rank] for rank in order)
        ranked = sorted((rank, passage) for group in groups for rank, passage in enumerate(group))
        best_first = tuple(passage for _, passage in ranked)
        if stage.keep == 0:  # one group: its order is the start of the final order
            entrants = best_first
        else:
            # Every group has at least `keep`, so the first groups * keep are the first `keep` of each.
            cut = stage.groups * stage.keep
            entrants = best_first[:cut]
            behind.append(best_first[cut:])
    return entrants + tuple(passage for left in reversed(behind) for passage in left)
