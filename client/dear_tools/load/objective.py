"""The latency objective, such as p95<2s."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from dear_tools.exits import ToolError
from dear_tools.load.schedule import parse_duration

_OBJECTIVE = re.compile(r"p(\d{1,2}(?:\.\d+)?)\s*<\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Objective:
    """That ``percent`` of all requests are answered within ``limit_s`` seconds.

    A request that is refused, fails or brings an invalid order misses it, however quick it was.
    """

    percent: float
    limit_s: float

    def is_met(self, good: int, total: int) -> bool:
        """Whether so many good answers of so many requests are enough."""
        # 99.9 / 100 * 1000 is a little over 999.
        return total > 0 and good >= self.percent / 100 * total - 1e-6

    def __str__(self) -> str:
        limit = f"{self.limit_s * 1e3:g}ms" if self.limit_s < 1 else f"{self.limit_s:g}s"
        return f"p{self.percent:g}<{limit}"


def parse_objective(text: str) -> Objective:
    """The objective in a text such as ``p95<2s`` or ``p99<800ms``.

    Raises:
        ToolError: anything else.
    """
    found = _OBJECTIVE.fullmatch(text.strip())
    with contextlib.suppress(ToolError):  # what stands for the limit is no duration
        if found and float(found[1]) > 0:
            return Objective(float(found[1]), parse_duration(found[2]))
    raise ToolError(f"{text!r} is no objective such as p95<2s or p99<800ms")
