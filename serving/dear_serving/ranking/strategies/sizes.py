"""Checks the sizes that a strategy is planned for."""

from __future__ import annotations

from dear_serving.ranking.windows import Sizes


def check_sizes(sizes: Sizes) -> None:
    """Check sizes.

    Raises:
        ValueError: a number is out of range; the message names it. For no passages, ``top_n`` may be 0 or 1.
    """
    if sizes.count < 0:
        raise ValueError(f"count must be at least 0, got {sizes.count}")
    if sizes.window < 2:
        raise ValueError(f"window must be at least 2, got {sizes.window}")
    if not 1 <= sizes.step <= sizes.window:
        raise ValueError(
            f"step must be from 1 to the window of {sizes.window}, got {sizes.step}; "
            "passages would be left unseen"
        )
    if not min(1, sizes.count) <= sizes.top_n <= max(1, sizes.count):
        raise ValueError(f"top_n must be from 1 to the count of {sizes.count}, got {sizes.top_n}")
