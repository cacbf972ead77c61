"""A tournament in several stages."""

from __future__ import annotations

from dear_serving.ranking.strategies.knockout import Stage, knockout
from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Sizes, Strategy


def tourrank(sizes: Sizes) -> Strategy:
    """Run a tournament: in each stage the best of every group advance, and a passage's points are the stages
    it survived. Ties are ordered by rank in the last group, then by first-stage position.

    100 passages with a window of 20 are reduced to 50, 20, 10, 5, 2 in 13 calls and 5 rounds, as published.
    In general:

    - more than three windows of passages are halved, fewer are reduced to one window, one window is halved
      until two or fewer are left;
    - a stage has the number of groups of the stage before (the first: ``ceil(count / window)``) as long as
      each holds at least half a window and two passages; else ``ceil(entrants / window)``.

    A stage is one round, with one call for every group of two passages or more.

    Raises:
        ValueError: illegal sizes.

    Source: TourRank, arXiv 2406.11678. The paper gives the stages for 100 passages only, shuffles each group,
    and adds the points of several tournaments; here self_consistent runs several.
    """
    check_sizes(sizes)
    return knockout(stages(sizes.count, sizes.window), sizes.top_n)


def stages(count: int, window: int) -> list[Stage]:
    """The stages for ``count`` passages."""
    plan: list[Stage] = []
    groups = -(-count // window)
    while count > window:
        if count // groups < max(2, window // 2):
            groups = -(-count // window)
        places = count // 2 if count > 3 * window else window
        keep = max(1, places // groups)
        plan.append(Stage(count, groups, keep))
        count = groups * keep
    while count > 5:
        plan.append(Stage(count, 1, count // 2))
        count //= 2
    return [*plan, Stage(count, 1, 0)]
