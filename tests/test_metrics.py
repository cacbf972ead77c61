"""Metrics of several processes as one text, and what a gateway counts."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from dear_serving.errors import EngineUnavailable, InvalidRequest, RateLimited
from dear_serving.metrics import EngineMetrics, Load, Metrics, add_up, count_gateways, join, render


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each series' value; fails where the text has a metric or a series twice."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    found = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}
    assert len(found) == len(samples)
    return found


def gateway(
    served: int, took_s: float, loads: dict[str, Load], engines: int | None = 2, most: int = 100
) -> Metrics:
    metrics = Metrics()
    metrics.watch(lambda: sum(load.waiting for load in loads.values()), lambda: engines, lambda: loads)
    metrics.queued_tokens_most.set(most)
    for _ in range(served):
        metrics.request_seconds.labels("/v2/rerank", "served").observe(took_s)
        metrics.count_request("acme", "served")
    return metrics


def test_counters_and_histograms_of_gateways_add_up_and_what_all_know_does_not() -> None:
    one = gateway(2, 0.02, {"acme": Load(3.0, 10, 5), "other": Load(1.0, 0, 7)})
    two = gateway(3, 0.2, {"acme": Load(3.0, 1, 2)})
    found = values(add_up([one.page(), two.page()]))
    labels = (("outcome", "served"), ("route", "/v2/rerank"))
    assert found["dear_request_seconds_count", labels] == 5
    assert found["dear_request_seconds_sum", labels] == pytest.approx(0.64)
    for bound, count in (("0.01", 0), ("0.025", 2), ("0.1", 2), ("0.25", 5), ("+Inf", 5)):
        assert found["dear_request_seconds_bucket", (("le", bound), *labels)] == count
    assert found["dear_tenant_requests_total", (("outcome", "served"), ("tenant", "acme"))] == 5
    assert found["dear_queued_tokens", ()] == 11
    assert found["dear_queued_tokens_most", ()] == 100
    assert found["dear_engines", ()] == 2
    assert found["dear_tenant_weight", (("tenant", "acme"),)] == 3
    assert found["dear_tenant_tokens", (("state", "waiting"), ("tenant", "acme"))] == 11
    assert found["dear_tenant_tokens", (("state", "running"), ("tenant", "other"))] == 7


def test_a_gateway_that_does_not_know_the_engines_yet_hides_nobodys_number() -> None:
    unknowing, knowing = gateway(0, 0, {}, engines=None), gateway(0, 0, {})
    assert math.isnan(values(add_up([unknowing.page()]))["dear_engines", ()])
    for pages in ([unknowing.page(), knowing.page()], [knowing.page(), unknowing.page()]):
        assert values(add_up(pages))["dear_engines", ()] == 2


def test_a_tenants_page_has_its_own_series_alone() -> None:
    metrics = gateway(1, 0.1, {"acme": Load(1.0, 1, 1), "other": Load(1.0, 1, 1)})
    metrics.count_request("other", "served")
    found = values(add_up([metrics.page("acme"), metrics.page("acme")]))
    assert found["dear_tenant_requests_total", (("outcome", "served"), ("tenant", "acme"))] == 2
    assert {dict(labels)["tenant"] for _, labels in found} == {"acme"}


def test_engines_are_told_apart_and_no_help_comes_twice() -> None:
    texts = []
    for replica, queue_s in (("first", 0.1), ("second", 0.3)):
        engine = EngineMetrics(CollectorRegistry())
        engine.watch(lambda: {"legal@1": None, "broken@1": "it has no weights"})
        engine.took("window", queue_s, 0.01, 0.02)
        engine.storage.registry_took(0.1, True)
        texts.append(render(engine.registry, replica))
    whole = join([add_up([gateway(1, 0.1, {}).page()]), *texts, count_gateways(3, 1)])
    found = values(whole)
    for replica, held_s in (("first", 0.1), ("second", 0.3)):
        assert found["dear_engine_queue_seconds_sum", (("kind", "window"), ("replica", replica))] == held_s
        assert found["dear_adapter_held", (("replica", replica), ("revision", "legal@1"))] == 1
        assert found["dear_adapter_held", (("replica", replica), ("revision", "broken@1"))] == 0
    # Gateways and engines both count the registry: one metric, told apart by the replica.
    assert ("dear_registry_seconds_count", (("outcome", "ok"),)) in found
    assert found["dear_registry_seconds_count", (("outcome", "ok"), ("replica", "first"))] == 1
    assert whole.count("# TYPE dear_registry_seconds ") == 1
    assert (found["dear_gateways", ()], found["dear_gateways_answered", ()]) == (3, 1)


def test_refusals_are_counted_by_code_from_nought() -> None:
    metrics = Metrics()
    for error in (RateLimited("no", retry_after_s=1), EngineUnavailable("no"), EngineUnavailable("no")):
        metrics.count_error(error)
    metrics.count_error(InvalidRequest("no", param="documents"))
    found = values(add_up([metrics.page()]))
    refused = {dict(labels)["code"]: value for (name, labels), value in found.items() if "refusals" in name}
    assert (refused["rate_limit_exceeded"], refused["engine_unavailable"]) == (1, 2)
    assert (refused["invalid_request"], refused["registry_unavailable"]) == (1, 0)


def test_the_loads_of_many_tenants_are_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    loads = {f"tenant-{number}": Load(1.0, 2, 3) for number in range(1500)}
    metrics.watch(lambda: 0, lambda: 1, lambda: loads)
    found = values(add_up([metrics.page()]))
    waiting = {
        dict(labels)["tenant"]: value
        for (name, labels), value in found.items()
        if name == "dear_tenant_tokens"
    }
    assert len(waiting) == 1001
    assert found["dear_tenant_tokens", (("state", "waiting"), ("tenant", "others"))] == 1000
