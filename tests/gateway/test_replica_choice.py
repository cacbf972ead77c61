"""Routing: adapters stay where they are warm, hot ones spread, and a replica without them comes last."""

from __future__ import annotations

import inspect
from collections import Counter
from types import SimpleNamespace

import pytest
from ray.serve.request_router import RequestRouter

from dear_serving.gateway.replica_choice import Candidate, adapter_of, preference
from dear_serving.protocol import GenerationRequest, OpenAIRequest

REPLICAS = ("r1", "r2", "r3", "r4")
ADAPTERS = [f"domain-{number}@0123456789ab" for number in range(200)]


def places(loads: dict[str, int] | None = None, held: dict[str, list[str]] | None = None) -> list[Candidate]:
    return [Candidate(name, (loads or {}).get(name, 0), (held or {}).get(name)) for name in REPLICAS]


def send(adapter: str, loads: Counter[str]) -> str:
    chosen = preference(adapter, places(loads))[0]
    loads[chosen] += 1
    return chosen


def test_an_idle_adapter_has_one_home_and_homes_are_spread() -> None:
    homes = Counter(preference(adapter, places())[0] for adapter in ADAPTERS)
    assert all(preference(ADAPTERS[0], places()) == preference(ADAPTERS[0], places()) for _ in range(3))
    assert set(homes) == set(REPLICAS)
    assert max(homes.values()) < 2 * min(homes.values())


def test_a_hot_adapter_spreads_over_all_replicas() -> None:
    loads: Counter[str] = Counter()
    for _ in range(100):
        send(ADAPTERS[0], loads)
    assert set(loads) == set(REPLICAS)
    assert max(loads.values()) <= 1.25 * 100 / 4 + 1


def test_a_rare_adapter_stays_at_home_beside_a_hot_one() -> None:
    loads: Counter[str] = Counter()
    stayed = 0
    for number in range(400):
        send(ADAPTERS[0], loads)
        if number % 10 == 0:
            rare = ADAPTERS[1 + number // 10]
            stayed += send(rare, loads) == preference(rare, places())[0]
    assert stayed > 40 * 0.5  # of a replica at the bound it goes to its second choice
    assert max(loads.values()) <= 1.25 * sum(loads.values()) / 4 + 1


def test_a_replica_that_goes_moves_its_own_adapters_alone() -> None:
    for adapter in ADAPTERS:
        before = preference(adapter, places())
        after = preference(adapter, [place for place in places() if place.id != "r3"])
        assert after == [name for name in before if name != "r3"]


def test_those_that_hold_the_adapter_come_first() -> None:
    held = {"r1": [ADAPTERS[0]], "r2": [], "r3": [ADAPTERS[0]], "r4": ["another@0123456789ab"]}
    assert set(preference(ADAPTERS[0], places(held=held))[:2]) == {"r1", "r3"}
    loaded = {"r1": 50, "r3": 50}
    assert set(preference(ADAPTERS[0], places(loaded, held))[:2]) == {"r1", "r3"}


def test_where_none_is_known_to_hold_it_all_may() -> None:
    assert set(preference(ADAPTERS[0], places(held={"r1": []}))) == set(REPLICAS)


@pytest.mark.parametrize("adapter", [None, ADAPTERS[0]])
def test_every_replica_is_named_once(adapter: str | None) -> None:
    loads = {"r1": 9, "r2": 1, "r3": 5, "r4": 30}
    assert sorted(preference(adapter, places(loads))) == sorted(REPLICAS)


def test_the_base_model_goes_to_the_less_loaded_of_two() -> None:
    loads = {"r1": 9, "r2": 1, "r3": 5, "r4": 30}
    first = Counter(preference(None, places(loads))[0] for _ in range(600))
    assert set(first) == {"r1", "r2", "r3"}  # the busiest never is
    assert first["r2"] > first["r3"] > first["r1"]  # a half, a third, a sixth
    assert preference(None, places(loads)[:1]) == ["r1"]


def test_an_adapter_goes_to_the_less_loaded_of_its_first_two() -> None:
    home, second, *_ = preference(ADAPTERS[0], places())
    loads = dict.fromkeys(REPLICAS, 20)
    assert preference(ADAPTERS[0], places(loads | {second: 19}))[0] == second
    assert preference(ADAPTERS[0], places(loads))[0] == home


def test_the_adapter_is_read_off_every_call_of_the_protocol() -> None:
    assert adapter_of([GenerationRequest([1], 1, ADAPTERS[0], "id")]) == ADAPTERS[0]
    assert adapter_of([GenerationRequest([1], 1, None, "id")]) is None
    assert adapter_of([OpenAIRequest("chat", {"model": ADAPTERS[0]}, "id", 1, 1)]) == ADAPTERS[0]
    assert adapter_of([OpenAIRequest("chat", {"model": "dear-tiny"}, "id", 1, 1)]) is None
    assert adapter_of([]) is None
    assert adapter_of([SimpleNamespace(adapter=7), {"model": []}]) is None


def test_ray_keeps_what_the_router_leans_on() -> None:
    """Private to Ray: where a request gets its replica, and how replicas are asked for their loads."""
    for name in ("_choose_replica_for_request", "_probe_queue_lens"):
        assert inspect.iscoroutinefunction(getattr(RequestRouter, name))
    assert callable(RequestRouter._get_pending_request_matching_internal_request_id)
