"""What one gateway knows of its engine replicas: which run, how busy each is, and which to leave out."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from cachetools import TTLCache

from dear_serving.types import message

_MOST_FAULTS = 3
_EJECTED_S, _MOST_EJECTED_S = 5.0, 60.0
_FORGIVEN_S = 300.0
_MOST_SILENT = 5  # questions without an answer, about a second each
_STALE_S = 5.0
_REMEMBERED_S, _MOST_REMEMBERED = 60.0, 256

Sight = Literal["serving", "left_out", "silent", "ended"]
"""What a gateway does with a replica: ``serving`` gets calls, ``left_out`` failed and gets none for a while,
``silent`` does not answer questions and gets none, ``ended`` ran a moment ago."""


@message
@dataclass(frozen=True, slots=True)
class Seen:
    """A replica as one gateway sees it; ``open``: the calls of this gateway that it has."""

    sight: Sight
    open: int = 0


@dataclass(eq=False, slots=True)
class Attempt:
    """One try of a call. The router sets ``replica``; it takes one of ``tried`` only if there is no other."""

    tried: set[str] = field(default_factory=set)
    replica: str | None = None


@dataclass(slots=True)
class _Place:
    """A replica with ``open`` calls of this gateway, and ``others`` of other gateways when last heard of."""

    runs: bool = True
    open: int = 0
    others: int = 0
    heard_s: float | None = None
    silent: int = 0
    faults: int = 0
    ejections: int = 0
    ejected_until_s: float = -math.inf
    on_trial: bool = False


class EngineReplicas:
    """Kept up to date by the router (``update``, ``gone``, ``heard``, ``unheard``), which Serve tells, and by
    what becomes of calls. All of it is local: a request never waits for the controller or the head node.

    A replica is left out of the choice (outlier ejection, as in Envoy):

    - when it failed three times in a row; only failures of requests that another replica then answered
      count, so that a request that fails everywhere ejects nobody. It is left out for 5 s times the number of
      times before, at most a minute; then one call at a time tries it until one is answered. At most
      half of the replicas are left out so.
    - while it does not answer the router's questions, which need no engine and wait for nothing.

    If that leaves none, all are chosen from. Safe to use from several threads: Serve's router has its own.

    Args:
        clock: seconds.
        on_ejection: called each time a replica is left out.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, on_ejection: Callable[[], None] = lambda: None
    ) -> None:
        self.on_ejection = on_ejection
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._gone: set[str] = set()
        self._ended: TTLCache[str, None] = TTLCache(_MOST_REMEMBERED, _REMEMBERED_S, clock)
        self._is_told = False

    @property
    def running(self) -> int | None:
        """How many run; None until Serve said so for the first time."""
        with self._lock:
            return sum(place.runs for place in self._places.values()) if self._is_told else None

    def update(self, running: Collection[str]) -> None:
        """Serve says which replicas run. One that died stays gone, though Serve may not know yet."""
        with self._lock:
            self._is_told = True
            self._gone.intersection_update((*running, *self._places))  # calls may still be open there
            for name in running:
                if name not in self._gone:
                    self._places.setdefault(name, _Place()).runs = True
            for name, place in list(self._places.items()):
                ran, place.runs = place.runs, name in running and name not in self._gone
                if ran and not place.runs:
                    self._ended[name] = None
                if not place.runs and not place.open:
                    del self._places[name]

    def gone(self, name: str) -> None:
        """A replica's process is dead."""
        with self._lock:
            self._gone.add(name)
            if (place := self._places.get(name)) is not None:
                place.runs = False
                self._ended[name] = None

    def seen(self) -> Mapping[str, Seen]:
        """What this gateway sees of each replica that runs, or ran in the last minute."""
        with self._lock:
            now_s = self._clock()
            found = {name: Seen("ended") for name in self._ended}
            for name, place in self._places.items():
                found[name] = Seen(self._sight(place, now_s), place.open)
            return found

    @staticmethod
    def _sight(place: _Place, now_s: float) -> Sight:
        if not place.runs:
            return "ended"
        if place.silent >= _MOST_SILENT:
            return "silent"
        return "left_out" if place.ejected_until_s > now_s or place.on_trial else "serving"

    def open_on(self, name: str) -> bool:
        """Whether calls of this gateway are open there."""
        with self._lock:
            place = self._places.get(name)
            return place is not None and place.open > 0

    def assign(self, attempt: Attempt, name: str) -> None:
        """The router sends a call to a replica."""
        with self._lock:
            self._release(attempt)
            attempt.replica = name
            attempt.tried.add(name)
            self._places.setdefault(name, _Place(runs=name not in self._gone)).open += 1

    def finish(self, attempt: Attempt) -> None:
        """A call is over, however it ended."""
        with self._lock:
            self._release(attempt)

    def _release(self, attempt: Attempt) -> None:
        if (place := self._places.get(attempt.replica or "")) is not None:
            place.open -= 1
            if not place.runs and not place.open:
                del self._places[attempt.replica or ""]

    def heard(self, name: str, load: int) -> None:
        """A replica says how many calls it has now, those of all gateways."""
        with self._lock:
            if (place := self._places.get(name)) is not None:
                place.heard_s, place.silent = self._clock(), 0
                place.others = max(0, load - place.open)

    def unheard(self, name: str) -> None:
        """A replica did not answer the router's question in time."""
        with self._lock:
            if (place := self._places.get(name)) is None:
                return
            place.silent += 1
            is_news = place.silent == _MOST_SILENT
        if is_news:
            self.on_ejection()

    def succeeded(self, name: str | None) -> None:
        """A replica answered a call."""
        with self._lock:
            if (place := self._places.get(name or "")) is not None:
                place.faults, place.on_trial = 0, False

    def failed(self, name: str) -> bool:
        """A replica failed at a call that another one then answered. Returns whether it is left out now."""
        with self._lock:
            place, now_s = self._places.get(name), self._clock()
            if place is None or place.ejected_until_s > now_s:
                return False
            place.faults += 1
            if place.faults < _MOST_FAULTS and not place.on_trial:
                return False
            running = [one for one in self._places.values() if one.runs]
            ejected = sum(one.ejected_until_s > now_s or one.on_trial for one in running if one is not place)
            if ejected + 1 > len(running) // 2:
                return False
            if now_s - place.ejected_until_s > _FORGIVEN_S:
                place.ejections = 0
            place.ejections += 1
            place.faults, place.on_trial = 0, True
            place.ejected_until_s = now_s + min(_EJECTED_S * place.ejections, _MOST_EJECTED_S)
        self.on_ejection()
        return True

    def is_lost(self, attempt: Attempt) -> bool:
        """Whether a call's replica is dead; or silent, and Serve gave it up or another one could answer."""
        with self._lock:
            place = self._places.get(attempt.replica or "")
            if place is None:
                return False
            if attempt.replica in self._gone:
                return True
            return place.silent >= _MOST_SILENT and (
                not place.runs
                or any(
                    one.runs and not one.silent and one.heard_s is not None for one in self._places.values()
                )
            )

    def others(self, tried: Collection[str]) -> bool:
        """Whether a replica runs that was not tried."""
        with self._lock:
            return any(place.runs and name not in tried for name, place in self._places.items())

    def choosable(self, names: Collection[str], avoid: Collection[str] = ()) -> Mapping[str, int]:
        """The replicas of ``names`` that may get a call, each with its load in calls.

        A replica that was not heard of lately counts as busy as the busiest, so that a new one or one that
        hangs draws nobody before it has said something.
        """
        with self._lock:
            now_s = self._clock()
            places = {name: self._places.setdefault(name, _Place()) for name in names}
            fit = [name for name, place in places.items() if self._may_have_more(name, place, now_s)]
            chosen = [name for name in fit if name not in avoid] or fit
            chosen = chosen or [name for name in names if name not in avoid] or list(names)
            known = {name: places[name].open + places[name].others for name in chosen}
            fresh = [load for name, load in known.items() if _is_fresh(places[name], now_s)]
            busiest = max(fresh, default=0)
            return {
                name: load if _is_fresh(places[name], now_s) else max(busiest, places[name].open)
                for name, load in known.items()
            }

    def _may_have_more(self, name: str, place: _Place, now_s: float) -> bool:
        if name in self._gone or place.silent >= _MOST_SILENT or place.ejected_until_s > now_s:
            return False
        return not (place.on_trial and place.open)


def _is_fresh(place: _Place, now_s: float) -> bool:
    return place.heard_s is not None and now_s - place.heard_s < _STALE_S


_OF: dict[str, EngineReplicas] = {}


def engine_replicas_of(deployment: str) -> EngineReplicas:
    """What this process knows of a deployment's replicas. Serve makes the router itself, so router and
    gateway meet here.
    """
    return _OF.setdefault(deployment, EngineReplicas())


ATTEMPT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
"""Set where a call is sent: the router's task inherits it."""
