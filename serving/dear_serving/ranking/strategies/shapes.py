"""What a strategy can be planned for."""

from __future__ import annotations

from dear_serving.ranking.windows import Windowing


def check(shape: Windowing) -> None:
    """Let a legal shape pass.

    Raises:
        ValueError: naming the number that is out of range. For no passages, ``top_n`` may be 0 or 1.
    """
    if shape.count < 0:
        raise ValueError(f"count must be at least 0, got {shape.count}")
    if shape.window < 2:
        raise ValueError(f"window must be at least 2, got {shape.window}")
    if not 1 <= shape.step <= shape.window:
        raise ValueError(
            f"step must be from 1 to the window of {shape.window}, got {shape.step}; "
            "passages would be left unseen"
        )
    if not min(1, shape.count) <= shape.top_n <= max(1, shape.count):
        raise ValueError(f"top_n must be from 1 to the count of {shape.count}, got {shape.top_n}")
