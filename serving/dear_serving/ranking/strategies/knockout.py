"""Rounds of striped groups whose best go on: what merge2 and tourrank share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dear_serving.ranking.windows import Batch, Strategy, Window
from dear_serving.types import Order


@dataclass(frozen=True, slots=True)
class Stage:
    """One round: ``entrants`` passages in ``groups`` striped groups, the best ``keep`` of each go on.

    Groups differ by one passage at most. The last stage has one group and keeps none: its order stands.
    """

    entrants: int
    groups: int
    keep: int

    def needed(self, top_n: int) -> int:
        """How many of each group have to be decided: those that go on, and as many more as the first
        ``top_n`` of the final order reach into those that stay behind."""
        behind = max(0, top_n - self.groups * self.keep)
        return self.keep + -(-behind // self.groups)


def knockout(stages: Sequence[Stage], top_n: int) -> Strategy:
    """Play ``stages`` in turn, each a round with a window for every group of two passages or more.

    Group g of a stage has its entrants g, g + groups, g + 2 * groups, ..., so that every group spans the
    order known so far; contiguous groups lose 2 to 4 points of nDCG@10. Those that go on enter the next
    stage by rank in their group, then first-stage position. The final order is the last stage's, then
    those left behind, the later the better, by the same rule. Fewer than two entrants: no call.
    """
    entrants: Order = tuple(range(stages[0].entrants)) if stages else ()
    behind: list[Order] = []
    for stage in stages:
        groups = [entrants[group :: stage.groups] for group in range(stage.groups)]
        needed = stage.needed(top_n)
        windows = tuple(Window(group, min(needed, len(group))) for group in groups if len(group) > 1)
        if windows:
            orders = yield Batch(windows, leads=stage.keep == 0)
            for group, order in enumerate(orders):  # groups of one come last
                groups[group] = tuple(groups[group][rank] for rank in order)
        ranked = sorted((rank, passage) for group in groups for rank, passage in enumerate(group))
        best_first = tuple(passage for _, passage in ranked)
        if stage.keep == 0:  # one group: its order is the head of the final one
            entrants = best_first
        else:
            # Every group has at least `keep`, so the first groups * keep are the first `keep` of each.
            cut = stage.groups * stage.keep
            entrants = best_first[:cut]
            behind.append(best_first[cut:])
    return entrants + tuple(passage for left in reversed(behind) for passage in left)
