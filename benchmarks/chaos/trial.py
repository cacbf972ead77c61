"""One fault after another on a cluster under load."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.chaos.callers import Answer, Callers, Load
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.figures import figures, is_well, recovered
from benchmarks.chaos.machines import wait_for
from benchmarks.chaos.report import Outcome

_LEAD_S = 5.0  # seen before each fault
_WATCH_S = 6.0  # at least, after it is mended
_CALM_S = 6.0  # as long must all be well at the end
_MOST_S = 300.0  # then it counts as not recovered
_CALLERS = 4  # of each kind


class Trial:
    """A cluster and its callers. The cluster is made anew where a fault broke it for good.

    Args:
        scratch: an empty folder.
        say: prints a line.
    """

    def __init__(self, scratch: Path, say: Callable[[str], object]) -> None:
        self._scratch = scratch
        self._say = say
        self._clusters = 0
        self._cluster: Cluster | None = None
        self._load: Load | None = None

    def run(self, fault: Fault) -> Outcome:
        """Break, mend, and watch until all is well again, or for five minutes."""
        cluster, load = self._ready()
        before_s = time.monotonic()
        with cluster.aiming():
            time.sleep(_LEAD_S)
        restarts = len(cluster.restarts)
        self._say(f"{fault.title} ...")
        start_s = time.monotonic()
        cluster.notes.clear()
        try:
            with fault.breaking(cluster):
                time.sleep(fault.lasts_s)
        except Exception as error:
            cluster.notes.append(f"{type(error).__name__}: {error}")
        mended_s = time.monotonic()
        usual_s = figures(load.answers(), before_s, start_s, mended_s).median_before_s
        whole_s: float | None = None
        while (now_s := time.monotonic()) < mended_s + _MOST_S:
            if not cluster.is_whole:
                whole_s = None
            elif whole_s is None:
                whole_s = now_s - start_s
            well_s = recovered(load.answers(), start_s, now_s, usual_s)
            is_calm = well_s is not None and start_s + well_s < now_s - _CALM_S
            if is_calm and whole_s is not None and now_s > mended_s + _WATCH_S:
                break
            time.sleep(0.5)
        end_s = time.monotonic()
        answers = load.answers()
        seconds = _by_second(answers, start_s - _LEAD_S, end_s)
        return Outcome(
            name=fault.name,
            title=fault.title,
            figures=figures(answers, before_s, start_s, end_s),
            broken_s=mended_s - start_s if fault.lasts_s else 0.0,
            watched_s=end_s - start_s,
            whole_s=whole_s,
            restarted=tuple(cluster.restarts[restarts:]),
            lead_s=int(_LEAD_S),
            answered=tuple(len(second) - _failed(second) for second in seconds),
            failed=tuple(map(_failed, seconds)),
            median_s=tuple(_median(second) for second in seconds),
            note="; ".join(cluster.notes),
        )

    def close(self) -> None:
        """End callers and cluster."""
        if self._load is not None:
            self._load.__exit__()
            self._load = None
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None

    def _ready(self) -> tuple[Cluster, Load]:
        """A whole cluster whose callers are content."""
        if self._cluster is not None and self._load is not None:
            cluster, load = self._cluster, self._load
            try:
                wait_for(lambda: cluster.is_whole and _is_calm(load), 30, "calm after the last fault", 1.0)
                return cluster, load
            except TimeoutError as error:
                self._say(f"{error}: the cluster is made anew")
        self.close()
        self._clusters += 1
        began_s = time.monotonic()
        self._cluster = cluster = Cluster(self._scratch / f"cluster-{self._clusters}")
        cluster.start()
        key = cluster.keys["quiet"]
        groups = [Callers("bare", _CALLERS, key), Callers("client", _CALLERS, key)]
        self._load = load = Load(cluster.urls, groups).__enter__()
        wait_for(lambda: _is_calm(load), 120, "calm after the start", 1.0)
        self._say(f"the cluster is up after {time.monotonic() - began_s:.0f} s")
        return cluster, load


def _is_calm(load: Load) -> bool:
    now_s = time.monotonic()
    return is_well(load.answers(), now_s - _CALM_S, now_s, None)


def _by_second(answers: list[Answer], start_s: float, end_s: float) -> list[list[Answer]]:
    """The calls that ended in each second."""
    seconds: list[list[Answer]] = [[] for _ in range(max(1, int(end_s - start_s)))]
    for answer in answers:
        second = int(answer.ended_s - start_s)
        if answer.ended_s >= start_s and second < len(seconds):
            seconds[second].append(answer)
    return seconds


def _failed(answers: list[Answer]) -> int:
    return sum(not answer.is_ok for answer in answers)


def _median(answers: list[Answer]) -> float | None:
    taken_s = [answer.ended_s - answer.began_s for answer in answers if answer.is_ok]
    return round(median(taken_s), 3) if taken_s else None
