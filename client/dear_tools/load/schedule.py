"""When requests are sent: stages of a rate (requests/s) or of callers, each steady or a ramp."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from dear_tools.exits import ToolError

Arrivals = Literal["poisson", "constant"]

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_STAGE = re.compile(rf"(?:(?P<duration>{_NUMBER}(?:ms|s|m|h))@)?(?P<start>{_NUMBER})(?::(?P<end>{_NUMBER}))?")
_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h)?")
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Stage:
    """So many seconds, from one level to another in a straight line."""

    duration_s: float
    start: float
    end: float

    def level(self, at_s: float) -> float:
        """The level after so many seconds of this stage."""
        return self.start + (self.end - self.start) * at_s / self.duration_s

    @property
    def total(self) -> float:
        """Level times time: of a rate, the number of requests."""
        return (self.start + self.end) / 2 * self.duration_s

    def when(self, total: float) -> float:
        """Seconds into the stage at which ``total``, at most the whole, is reached."""
        if total <= 0:
            return 0.0
        slope = (self.end - self.start) / self.duration_s
        # Of start * t + slope / 2 * t^2 = total the root that is right for level, rising and falling stages.
        root = math.sqrt(max(0.0, self.start**2 + 2 * slope * total))
        return min(self.duration_s, 2 * total / (self.start + root))

    def __str__(self) -> str:
        level = f"{self.start:g}" if self.start == self.end else f"{self.start:g}:{self.end:g}"
        return f"{self.duration_s:g}s@{level}"


def parse_duration(text: str, *, may_be_none: bool = False) -> float:
    """Seconds of ``30s``, ``500ms``, ``2m``, ``1h`` or a bare number.

    Raises:
        ToolError: anything else, or nothing above 0 (but 0 where it ``may_be_none``).
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _UNITS_S[found[2] or "s"] if found else math.nan
    if not (0 < seconds < math.inf or (may_be_none and seconds == 0)):
        raise ToolError(f"{text!r} is no duration such as 30s, 500ms or 2m")
    return seconds


def parse_stages(text: str, whole_s: float) -> tuple[Stage, ...]:
    """Stages of a text such as ``10s@5, 1m@5:50``: ten seconds at 5, then a minute from 5 to 50.

    Args:
        whole_s: how long ``5`` or ``5:50`` alone is meant for, seconds.

    Raises:
        ToolError: a part that is no stage, or one without any load.
    """
    parts = [part.strip() for part in text.split(",")]
    stages = []
    for part in parts:
        found = _STAGE.fullmatch(part)
        if not found or (found["duration"] is None and len(parts) > 1):
            alone = "20, 5:50, " if len(parts) == 1 else ""
            raise ToolError(f"{part!r} is no load such as {alone}30s@10 or 1m@5:50")
        start = float(found["start"])
        lasts_s = whole_s if found["duration"] is None else parse_duration(found["duration"])
        stage = Stage(lasts_s, start, float(found["end"] or start))
        if not 0 < stage.total < math.inf:
            raise ToolError(f"{part!r}: a load above 0 is needed")
        stages.append(stage)
    return tuple(stages)


def duration_s(stages: Sequence[Stage]) -> float:
    """How long all stages take, seconds."""
    return sum(stage.duration_s for stage in stages)


def level_at(stages: Sequence[Stage], at_s: float) -> float:
    """The level at a time; 0 after the last stage."""
    for stage in stages:
        if at_s < stage.duration_s:
            return stage.level(at_s)
        at_s -= stage.duration_s
    return 0.0


def arrival_times(stages: Sequence[Stage], arrivals: Arrivals, random: random.Random) -> Iterator[float]:
    """When requests are to be sent, seconds from the start, rising.

    A Poisson process whose rate follows the stages, or even gaps at that rate: arrivals of rate 1 whose times
    are mapped through the inverse of the rate's integral.
    """
    gaps = (random.expovariate(1.0) if arrivals == "poisson" else 1.0 for _ in itertools.count())
    reached = next(gaps) if arrivals == "poisson" else 0.0
    before_s = before = 0.0
    for stage in stages:
        while reached < before + stage.total:
            yield before_s + stage.when(reached - before)
            reached += next(gaps)
        before += stage.total
        before_s += stage.duration_s


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
    """Random sources for arrivals and mix, and for lists: independent of each other."""
    return random.Random(f"{seed} schedule"), random.Random(f"{seed} lists")
