"""Groups in parallel, then one window over the best of each group."""

from __future__ import annotations

from dear_serving.ranking.strategies.knockout import Stage, knockout
from dear_serving.ranking.strategies.sizes import check_sizes
from dear_serving.ranking.windows import Sizes, Strategy


def merge2(sizes: Sizes) -> Strategy:
    """Rank ``groups = ceil(count / window)`` striped groups in parallel, then the best ``window // groups``
    of each in one final window.

    ``groups + 1`` calls in 2 rounds for up to ``window ** 2`` passages; 1 call in 1 round if they fit one
    window; none for fewer than two. With more than ``window ** 2`` passages the best one of each group
    advances and the rule applies again: ``ceil(log(count, window))`` rounds, where a stage of n passages
    makes ``min(ceil(n / window), n // 2)`` calls (a group of one passage needs none). Drawback: a group with
    more good passages than places loses some.

    Raises:
        ValueError: illegal sizes.

    Source: our own, the fewest calls in two rounds. Independent windows and a window of their winners are
    from TDPart (arXiv 2405.14589), which first finds a pivot in one more round; striped groups with a fixed
    number of places are from TourRank (arXiv 2406.11678).
    """
    check_sizes(sizes)
    return knockout(stages(sizes.count, sizes.window), sizes.top_n)


def stages(count: int, window: int) -> list[Stage]:
    """The stages for ``count`` passages."""
    plan = []
    while count > window:
        groups = -(-count // window)
        keep = max(1, window // groups)
        plan.append(Stage(count, groups, keep))
        count = groups * keep
    return [*plan, Stage(count, 1, 0)]
