"""From the answers around a fault to its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.chaos.callers import Answer

_BIN_S = 2.0
_SLOWER, _SLOW_S = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What callers saw of one fault, from its start on.

    ``requests`` ran in this time; of them ``lost_bare`` and ``lost_client`` got no ranking, by ``causes``.
    ``pause_s`` is the longest time without any success. ``recovered_s`` is when the last two seconds with a
    loss or with slow answers ended, seconds after the start (0: there were none; None: to the end).
    ``median_s``, ``p95_s`` and those before the fault are of the latencies of successful calls.
    """

    requests: int
    lost_bare: int
    lost_client: int
    causes: dict[str, int]
    pause_s: float
    recovered_s: float | None
    median_s: float | None
    p95_s: float | None
    median_before_s: float | None
    p95_before_s: float | None


def figures(answers: Sequence[Answer], before_s: float, start_s: float, end_s: float) -> Figures:
    """The figures of a fault.

    Args:
        answers: of all callers.
        before_s: from here to the start, all was well.
        start_s: the fault.
        end_s: until when callers were watched.
    """
    well = [a for a in answers if before_s <= a.began_s and a.ended_s < start_s and a.is_ok]
    # What was under way when it broke counts.
    seen = [a for a in answers if a.ended_s >= start_s and a.began_s < end_s]
    lost = [a for a in seen if not a.is_ok]
    usual_s = _median(well)
    return Figures(
        requests=len(seen),
        lost_bare=sum(a.kind == "bare" for a in lost),
        lost_client=sum(a.kind == "client" for a in lost),
        causes=dict(Counter(f"{a.kind}: {a.cause}" for a in lost).most_common()),
        pause_s=_longest_pause(seen, start_s, end_s),
        recovered_s=recovered(seen, start_s, end_s, usual_s),
        median_s=_median([a for a in seen if a.is_ok]),
        p95_s=_p95([a for a in seen if a.is_ok]),
        median_before_s=usual_s,
        p95_before_s=_p95(well),
    )


def is_well(answers: Sequence[Answer], start_s: float, end_s: float, usual_s: float | None) -> bool:
    """Whether between two moments calls succeeded, none was lost and they were not slow."""
    ended = [a for a in answers if start_s <= a.ended_s < end_s]
    if not ended or not all(a.is_ok for a in ended):
        return False
    taken_s = _median(ended)
    return taken_s is None or usual_s is None or taken_s <= max(_SLOWER * usual_s, _SLOW_S)


def recovered(answers: Sequence[Answer], start_s: float, end_s: float, usual_s: float | None) -> float | None:
    """See Figures.recovered_s; ``usual_s`` is the usual latency."""
    last_bad_s, moment_s = 0.0, start_s
    while moment_s + _BIN_S <= end_s:
        if not is_well(answers, moment_s, moment_s + _BIN_S, usual_s):
            last_bad_s = moment_s + _BIN_S - start_s
        moment_s += _BIN_S
    return None if last_bad_s and last_bad_s > end_s - start_s - _BIN_S else last_bad_s


def _longest_pause(answers: Sequence[Answer], start_s: float, end_s: float) -> float:
    successes = sorted(a.ended_s for a in answers if a.is_ok and a.ended_s < end_s)
    moments = [start_s, *successes, end_s]
    return max(later - earlier for earlier, later in pairwise(moments))


def _median(answers: Sequence[Answer]) -> float | None:
    return median(a.ended_s - a.began_s for a in answers) if answers else None


def _p95(answers: Sequence[Answer]) -> float | None:
    latencies = sorted(a.ended_s - a.began_s for a in answers)
    return latencies[int(0.95 * (len(latencies) - 1))] if latencies else None
