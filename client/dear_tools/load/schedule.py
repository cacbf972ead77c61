"""When the requests of a load test are sent, and the chance in it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from dear_tools.load.stages import Arrivals, Stage, duration_s


@dataclass(frozen=True, slots=True)
class Schedule:
    """When requests are sent.

    ``open``: at times that do not depend on the answers; stages are requests/s. ``closed``: by callers
    who each wait for their answer before they send again; stages are numbers of callers. ``requests``, where
    given, ends it after so many. Before it all, ``warmup_s`` seconds at the first stage's level do not count.
    """

    kind: Literal["open", "closed"]
    stages: tuple[Stage, ...]
    arrivals: Arrivals = "poisson"
    requests: int | None = None
    warmup_s: float = 0.0

    @property
    def with_warmup(self) -> tuple[Stage, ...]:
        """All stages, the warm-up first."""
        first = self.stages[0].start or self.stages[0].end / 2
        return (Stage(self.warmup_s, first, first), *self.stages) if self.warmup_s else self.stages

    @property
    def duration_s(self) -> float:
        """How long requests are sent, seconds, the warm-up included; the last answers come later."""
        return duration_s(self.with_warmup)


def random_sources(seed: int) -> tuple[random.Random, random.Random]:
    """Sources of chance for arrivals and mix, and for lists: one does not change what the other draws."""
    return random.Random(f"{seed} schedule"), random.Random(f"{seed} lists")
