"""The figures of a load test, from records made by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.load.objective import parse_objective
from dear_tools.load.records import Record, Refusal
from dear_tools.load.summary import intervals, parts, spread
from tests.tools.load.runs import made, summary_of


def test_percentiles_are_values_that_occurred() -> None:
    found = spread([n / 1e3 for n in range(200, 0, -1)])
    assert found is not None
    # Of 200 values the 100th, 180th, 190th and 198th.
    assert (found.count, found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms) == (
        200,
        *map(pytest.approx, (100.0, 180.0, 190.0, 198.0, 200.0)),
    )
    assert found.mean_ms == pytest.approx(100.5)


def test_a_single_value_is_every_percentile_and_none_has_no_distribution() -> None:
    found = spread([0.25])
    assert found is not None
    assert {found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms, found.max_ms, found.mean_ms} == {250.0}
    assert spread([]) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_those_of_the_nearest_rank(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    ordered = sorted(values)
    for percent, value in ((50, found.p50_ms), (90, found.p90_ms), (95, found.p95_ms), (99, found.p99_ms)):
        assert value == pytest.approx(ordered[math.ceil(percent * len(values) / 100) - 1] * 1e3)


MIXED = [
    *(
        made(n, 0.5, tenant="a", model="x", prompt_tokens=90, completion_tokens=10, windows=1)
        for n in range(6)
    ),
    made(6, 3.0, tenant="a", model="y", prompt_tokens=90, completion_tokens=10, windows=3, repairs=2),
    made(7, 0.01, "refused", tenant="a", model="y", refusals=1, named=1, status=429, message="busy"),
    made(8, 0.02, "invalid", tenant="b", model="x", message="no permutation"),
    made(9, 3.0, "failed", tenant="b", model="x", status=500, message="busy"),
]
"""Ten requests: seven valid answers, one of them after 3 s."""


def test_rates_are_over_the_time_to_the_last_answer_and_shares_over_all_requests() -> None:
    found = summary_of(MIXED)
    assert (found.requests, found.results) == (10, {"ok": 7, "refused": 1, "invalid": 1, "failed": 1})
    assert (found.offered_s, found.duration_s) == (10.0, 12.0)
    assert found.offered_per_s == pytest.approx(1.0)
    assert found.ok_per_s == pytest.approx(7 / 12)
    assert found.passages_per_s == pytest.approx(7 * 20 / 12)
    assert found.tokens_per_s == pytest.approx(700 / 12)
    assert found.windows_per_request == pytest.approx(9 / 7)
    assert found.repaired == 1
    assert found.messages == {"busy": 2, "no permutation": 1}
    assert found.refused_share == pytest.approx(0.1)


def test_goodput_counts_valid_answers_within_the_objective_of_all_requests() -> None:
    found = summary_of(MIXED, "p60<2s")
    assert (found.good, found.good_share, found.objective_met) == (6, 0.6, True)
    assert found.good_per_s == pytest.approx(6 / 12)
    assert not summary_of(MIXED, "p61<2s").objective_met
    assert summary_of(MIXED, "p70<4s").objective_met
    assert not summary_of(MIXED, "p71<4s").objective_met
    # The limit itself is too late.
    assert summary_of(MIXED, "p1<500ms").good == 0


def test_latency_is_that_of_valid_answers_from_the_intended_time_and_service_from_the_real_one() -> None:
    records = [made(0, 1.0, lag_s=0.4), made(1, 1.0, lag_s=0.4), made(2, 9.0, "failed")]
    found = summary_of(records)
    assert found.latency is not None
    assert found.service is not None
    assert (found.latency.count, found.latency.p99_ms) == (2, pytest.approx(1000.0))
    assert found.service.p99_ms == pytest.approx(600.0)
    assert found.lag_p99_ms == pytest.approx(400.0)


def test_the_servers_own_times_are_of_answers_that_have_them() -> None:
    records = [made(0, 1.0, windows=1, queue_ms=7.0, engine_ms=9.0), made(1, 1.0)]
    found = summary_of(records)
    assert found.queue is not None
    assert found.engine is not None
    assert (found.queue.count, found.queue.p50_ms, found.engine.p50_ms) == (1, 7.0, 9.0)
    assert summary_of([made()]).queue is None


def test_a_warm_up_shifts_the_figures_and_changes_none() -> None:
    shifted = [made(record.intended_s + 5, record.latency_s, record.result) for record in MIXED]
    found = summary_of(shifted, start_s=5.0, end_s=15.0)
    assert (found.offered_s, found.duration_s) == (10.0, 12.0)
    assert [one.start_s for one in found.intervals] == [float(n) for n in range(12)]


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 10.0), (2.0, 2.0), (2.0, 0.5), (0.0, 0.0)])
def test_no_requests_at_all_are_zeros(start_s: float, end_s: float) -> None:
    found = summary_of([], start_s=start_s, end_s=end_s)
    assert (found.requests, found.good, found.ok_per_s, found.good_share, found.lag_p99_ms) == (0,) + (
        0.0,
    ) * 4
    assert (found.latency, found.tenants, found.results, found.objective_met) == (None, (), {}, False)
    assert found.duration_s > 0
    assert len(found.intervals) >= 1


def test_parts_have_their_own_shares_and_those_with_most_requests_come_first() -> None:
    objective = parse_objective("p95<2s")
    tenants = parts(MIXED, objective, lambda record: record.tenant)
    assert [(part.name, part.requests, part.ok) for part in tenants] == [("a", 8, 7), ("b", 2, 0)]
    assert [part.refused_share for part in tenants] == [pytest.approx(1 / 8), 0.0]
    assert [part.goodput_share for part in tenants] == [pytest.approx(6 / 8), 0.0]
    assert tenants[0].latency is not None
    assert (tenants[0].latency.p50_ms, tenants[0].latency.p95_ms, tenants[0].latency.p99_ms) == (
        *map(pytest.approx, (500.0, 3000.0, 3000.0)),
    )
    assert tenants[1].latency is None
    models = parts(MIXED, objective, lambda record: record.model)
    assert [(part.name, part.requests) for part in models] == [("x", 8), ("y", 2)]
    even = parts([made(tenant="z"), made(tenant="y")], objective, lambda record: record.tenant)
    assert [part.name for part in even] == ["y", "z"]


RECORDS = st.lists(
    st.builds(
        lambda at_s, latency_s, result: made(at_s, latency_s, result),
        st.floats(0, 300, exclude_max=True),
        st.floats(0, 60),
        st.sampled_from(["ok", "refused", "failed"]),
    ),
    max_size=60,
)


@given(records=RECORDS)
def test_slices_hold_every_request_and_every_answer_once(records: list[Record]) -> None:
    duration_s = max([300.0, *(record.done_s for record in records)])
    found = intervals(records, 0.0, 300.0, duration_s)
    assert len(found) <= 120
    width_s = found[1].start_s
    assert found[-1].start_s < duration_s <= found[-1].start_s + width_s
    assert sum(one.offered_per_s for one in found) * width_s == pytest.approx(len(records))
    assert sum(one.ok_per_s + one.errors_per_s for one in found) * width_s == pytest.approx(len(records))
    assert [one.full for one in found] == [one.start_s + width_s <= 300 for one in found]
    for one in found:
        inside = [
            record.latency_s * 1e3
            for record in records
            if record.result == "ok" and one.start_s <= record.intended_s < one.start_s + width_s
        ]
        own = spread(value / 1e3 for value in inside)
        assert one.p50_ms == (own and pytest.approx(own.p50_ms))
        assert one.p95_ms == (own and pytest.approx(own.p95_ms))


@pytest.mark.parametrize(
    ("duration_s", "width_s", "count"),
    [(0.3, 1.0, 1), (1.0, 1.0, 1), (20.0, 1.0, 20), (20.001, 1.0, 21), (120.0, 1.0, 120), (600.0, 5.0, 120)],
)
def test_slices_are_a_second_or_so_wide_that_there_are_120(
    duration_s: float, width_s: float, count: int
) -> None:
    found = intervals([made(0.0, duration_s)], 0.0, duration_s, duration_s)
    assert [one.start_s for one in found] == [n * width_s for n in range(count)]


def test_retries_say_whether_retry_after_was_kept_on_both_sides() -> None:
    records = [
        made(refusals=2, named=1, retried=(Refusal(429, 1.0, 1.1, False), Refusal(503, None, 0.1, True))),
        made(result="refused", refusals=1, named=1),
        # A date is read twice, a moment apart: a hair too soon is none.
        made(refusals=1, named=1, retried=(Refusal(429, 1.0, 0.9995, True),)),
        made(refusals=1, named=1, retried=(Refusal(429, 1.0, 0.9, True),)),
    ]
    found = summary_of(records).retries
    assert (found.refusals, found.with_retry_after, found.retried) == (5, 4, 4)
    assert (found.too_soon, found.let_in) == (1, 3)


def test_a_hundred_thousand_requests_are_summarised_in_moments() -> None:
    source = random.Random(0)
    records = [made(n / 1000, source.random(), tenant=f"t{n % 7}") for n in range(100_000)]
    found = summary_of(records, end_s=100.0)
    assert found.requests == 100_000
    assert found.latency is not None
    assert found.latency.p99_ms == pytest.approx(990, abs=5)
