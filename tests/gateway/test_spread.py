"""How requests of several gateways spread over engines: a simulation, beside the way that came before."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from dear_serving.gateway.engine_replicas import Attempt, EngineReplicas
from dear_serving.gateway.replica_choice import Candidate, preference

HEARD_EVERY_S = 1.0
AT_ONCE = 8


@dataclass
class Engine:
    """Works on eight requests at once; others wait in their order."""

    name: str
    service_s: float
    running: int = 0
    waiting: list[Request] = field(default_factory=list)

    @property
    def load(self) -> int:
        return self.running + len(self.waiting)


@dataclass
class Request:
    gateway: Gateway
    adapter: str | None
    arrived_s: float
    load_then: int = 0
    attempt: Attempt = field(default_factory=Attempt)


class Gateway:
    """Chooses as the product does."""

    def __init__(self, clock: Callable[[], float], names: list[str]) -> None:
        self.replicas = EngineReplicas(clock)
        self.replicas.update(names)
        self.names = names

    def choose(self, request: Request) -> str:
        loads = self.replicas.choosable(self.names)
        chosen = preference(request.adapter, [Candidate(name, load, None) for name, load in loads.items()])[0]
        self.replicas.assign(request.attempt, chosen)
        return chosen

    def answered(self, request: Request, engine: Engine) -> None:
        self.replicas.finish(request.attempt)

    def hear(self, engine: Engine) -> None:
        self.replicas.heard(engine.name, engine.load)


class Before(Gateway):
    """As it was: the least loaded of what Ray's cache says, where unknown is 0 and answers bring old news."""

    def __init__(self, clock: Callable[[], float], names: list[str]) -> None:
        self.clock, self.names = clock, names
        self.cache: dict[str, tuple[int, float]] = {}

    def known(self, name: str) -> int:
        load, then_s = self.cache.get(name, (0, 0.0))
        return load if self.clock() - then_s < 10.0 else 0

    def choose(self, request: Request) -> str:
        chosen = min(self.names, key=self.known)
        self.cache[chosen] = (self.known(chosen) + 1, self.clock())
        return chosen

    def answered(self, request: Request, engine: Engine) -> None:
        self.cache[engine.name] = (max(0, request.load_then - 1), self.clock())

    def hear(self, engine: Engine) -> None:
        pass


def simulate(
    kind: type[Gateway],
    *,
    gateways: int,
    engines: int,
    share: float,
    slow: float = 1.0,
    adapters: tuple[str | None, ...] = (None,),
    until_s: float = 60.0,
    late: bool = False,
) -> tuple[float, Counter[str], int]:
    """The 95th percentile of latencies (seconds), requests by engine, and the longest queue of an engine.

    Args:
        share: of the engines' capacity that is asked for.
        slow: how many times slower the first engine is.
        late: the last engine starts in the middle.
    """
    dice = random.Random(7)
    now_s = 0.0
    names = [f"engine-{number}" for number in range(engines)]
    all_engines = {name: Engine(name, 0.5 * (slow if name == names[0] else 1.0)) for name in names}
    chosen_from = names[:-1] if late else names
    all_gateways = [kind(lambda: now_s, list(chosen_from)) for _ in range(gateways)]
    rate = share * sum(AT_ONCE / one.service_s for one in all_engines.values())
    count = itertools.count()
    events: list[tuple[float, int, Callable[[], None]]] = []
    latencies: list[float] = []
    went: Counter[str] = Counter()
    longest = 0

    def at(when_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (when_s, next(count), what))

    def arrive() -> None:
        nonlocal longest
        gateway = dice.choice(all_gateways)
        request = Request(gateway, dice.choice(adapters), now_s)
        engine = all_engines[gateway.choose(request)]
        went[engine.name] += 1
        engine.waiting.append(request)
        request.load_then = engine.load
        longest = max(longest, engine.load)
        begin(engine)
        at(now_s + dice.expovariate(rate), arrive)

    def begin(engine: Engine) -> None:
        while engine.waiting and engine.running < AT_ONCE:
            request = engine.waiting.pop(0)
            engine.running += 1
            at(
                now_s + engine.service_s * dice.uniform(0.5, 1.5),
                partial(end, engine, request),
            )

    def end(engine: Engine, request: Request) -> None:
        engine.running -= 1
        latencies.append(now_s - request.arrived_s)
        request.gateway.answered(request, engine)
        begin(engine)

    def hear(gateway: Gateway) -> None:
        for name in gateway.names:
            gateway.hear(all_engines[name])
        at(now_s + HEARD_EVERY_S * dice.uniform(0.75, 1.25), partial(hear, gateway))

    def one_more() -> None:
        for gateway in all_gateways:
            gateway.names.append(names[-1])

    at(0.0, arrive)
    for gateway in all_gateways:
        at(dice.uniform(0, HEARD_EVERY_S), partial(hear, gateway))
    if late:
        at(until_s / 2, one_more)
    while now_s < until_s:
        now_s, _, what = heapq.heappop(events)
        what()
    latencies.sort()
    return latencies[int(0.95 * len(latencies))], went, longest


CASES: dict[str, dict[str, Any]] = {
    "one gateway, two engines": {"gateways": 1, "engines": 2},
    "eight gateways, two engines": {"gateways": 8, "engines": 2},
    "one engine of eight is four times slower": {"gateways": 8, "engines": 8, "slow": 4.0},
    "one engine of 64 is four times slower": {"gateways": 8, "engines": 64, "slow": 4.0, "until_s": 15.0},
    "an engine starts in the middle": {"gateways": 8, "engines": 8, "late": True},
}


@pytest.mark.parametrize("case", CASES)
def test_requests_spread_by_what_engines_say_and_nobody_waits_for_one(case: str) -> None:
    now_s, went, longest = simulate(Gateway, share=0.7, **CASES[case])
    before_s, _, longest_before = simulate(Before, share=0.7, **CASES[case])
    # A request takes up to 0.75 s, on the slow engine up to 3 s.
    assert now_s < 1.1
    assert now_s < 0.6 * before_s
    assert longest < 0.6 * longest_before
    equal = [count for name, count in went.items() if name != "engine-0"]
    if "late" not in CASES[case]:
        assert max(equal) < 1.6 * min(equal)


def test_adapters_stay_at_two_engines_and_spread_over_all() -> None:
    adapters = tuple(f"domain-{number}@0123456789ab" for number in range(32))
    p95_s, went, _ = simulate(Gateway, gateways=8, engines=8, share=0.7, adapters=adapters)
    assert p95_s < 1.1
    assert max(went.values()) < 1.5 * min(went.values())
