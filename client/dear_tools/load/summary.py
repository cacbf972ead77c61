"""The figures of a load test, from its records. Durations in seconds unless a name says otherwise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dear_tools.load.objective import Objective
from dear_tools.load.records import Record

PERCENTS = (50, 90, 95, 99)

_MOST_INTERVALS = 120
_CLOCK_S = 1e-3
"""Tolerance of a wait: a Retry-After that is a date is read twice, a moment apart."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of durations, milliseconds; percentiles are measured values."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Part:
    """The figures of a tenant or model. Shares are of its own requests; ``latency`` of its valid answers."""

    name: str
    requests: int
    ok: int
    refused_share: float
    goodput_share: float
    latency: Spread | None


@dataclass(frozen=True, slots=True)
class Retries:
    """Refusals (429 and 503) and their retries.

    Of ``refusals`` replies ``with_retry_after`` named a time. ``retried`` were followed by another attempt,
    ``too_soon`` of these before that time (it would be the generator's fault), and ``let_in`` were answered
    then: whether the server keeps its word.
    """

    refusals: int
    with_retry_after: int
    retried: int
    too_soon: int
    let_in: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A slice of the run: what was offered and what was answered in it, per second; latency of what was due.

    Slices go on to the last answer; in those that are not ``full`` the load began or ended.
    """

    start_s: float
    full: bool
    offered_per_s: float
    ok_per_s: float
    errors_per_s: float
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one run.

    ``offered_per_s`` is over ``offered_s``, from the end of the warm-up to the end of the load; ``ok_per_s``,
    ``good_per_s`` and tokens over ``duration_s``, which goes on to the last answer. ``latency`` counts from
    the intended time, ``service`` from the real one; ``queue`` and ``engine`` are what the server says of
    itself.
    """

    offered_s: float
    duration_s: float
    requests: int
    results: dict[str, int]
    messages: dict[str, int]
    offered_per_s: float
    ok_per_s: float
    passages_per_s: float
    tokens_per_s: float
    windows_per_request: float
    repaired: int
    latency: Spread | None
    service: Spread | None
    queue: Spread | None
    engine: Spread | None
    objective: str
    objective_met: bool
    good: int
    good_per_s: float
    good_share: float
    refused_share: float
    retries: Retries
    lag_p99_ms: float
    generator_cpu: float
    tenants: tuple[Part, ...]
    models: tuple[Part, ...]
    intervals: tuple[Interval, ...]


def summarise(
    records: Sequence[Record],
    objective: Objective,
    *,
    start_s: float,
    end_s: float,
    generator_cpu: float,
) -> Summary:
    """The figures of the requests that were to be sent from ``start_s`` on.

    Args:
        start_s: end of the warm-up, seconds from the start of the run; ``end_s`` that of the load.
        generator_cpu: share of one core that the generator took; near 1 it was what was measured.
    """
    ok = [record for record in records if record.result == "ok"]
    offered_s = max(end_s - start_s, _CLOCK_S)
    last_s = max((record.done_s for record in records), default=end_s)
    duration_s = max(last_s - start_s, offered_s)
    good = sum(is_good(record, objective) for record in records)
    results = Counter(record.result for record in records)
    tokens = sum(record.prompt_tokens + record.completion_tokens for record in ok)
    return Summary(
        offered_s=offered_s,
        duration_s=duration_s,
        requests=len(records),
        results=dict(results.most_common()),
        messages=dict(Counter(one.message for one in records if one.message).most_common(10)),
        offered_per_s=len(records) / offered_s,
        ok_per_s=len(ok) / duration_s,
        passages_per_s=sum(record.passages for record in ok) / duration_s,
        tokens_per_s=tokens / duration_s,
        windows_per_request=_mean(record.windows for record in ok),
        repaired=sum(record.repairs > 0 for record in ok),
        latency=spread(record.latency_s for record in ok),
        service=spread(record.service_s for record in ok),
        queue=spread(record.queue_ms / 1e3 for record in ok if record.windows),
        engine=spread(record.engine_ms / 1e3 for record in ok if record.windows),
        objective=str(objective),
        objective_met=objective.is_met(good, len(records)),
        good=good,
        good_per_s=good / duration_s,
        good_share=_share(good, len(records)),
        refused_share=_share(results["refused"], len(records)),
        retries=_retries(records),
        lag_p99_ms=_percentile([record.lag_s for record in records], 99) * 1e3 if records else 0.0,
        generator_cpu=generator_cpu,
        tenants=parts(records, objective, lambda record: record.tenant),
        models=parts(records, objective, lambda record: record.model),
        intervals=intervals(records, start_s, offered_s, duration_s),
    )


def is_good(record: Record, objective: Objective) -> bool:
    """Whether a request got a valid answer within the objective's limit."""
    return record.result == "ok" and record.latency_s < objective.limit_s


def spread(durations_s: Iterable[float]) -> Spread | None:
    """The distribution of durations in seconds; None of none."""
    values = sorted(durations_s)
    if not values:
        return None
    p50_ms, p90_ms, p95_ms, p99_ms = (_percentile(values, percent) * 1e3 for percent in PERCENTS)
    return Spread(len(values), _mean(values) * 1e3, p50_ms, p90_ms, p95_ms, p99_ms, values[-1] * 1e3)


def parts(
    records: Sequence[Record], objective: Objective, name_of: Callable[[Record], str]
) -> tuple[Part, ...]:
    """The records by tenant or model, those with most requests first."""
    by_name: dict[str, list[Record]] = {}
    for record in records:
        by_name.setdefault(name_of(record), []).append(record)
    found = []
    for name, own in by_name.items():
        ok = [record for record in own if record.result == "ok"]
        refused = sum(record.result == "refused" for record in own)
        good = sum(is_good(record, objective) for record in own)
        latency = spread(record.latency_s for record in ok)
        found.append(
            Part(name, len(own), len(ok), _share(refused, len(own)), _share(good, len(own)), latency)
        )
    return tuple(sorted(found, key=lambda part: (-part.requests, part.name)))


def intervals(
    records: Sequence[Record], start_s: float, offered_s: float, duration_s: float
) -> tuple[Interval, ...]:
    """The run in slices of 1 s, or longer ones so that there are at most 120.

    Args:
        records: all to be sent from ``start_s`` on, within ``offered_s``, and ended within ``duration_s``.
    """
    width_s = max(1.0, float(math.ceil(duration_s / _MOST_INTERVALS)))
    count = math.ceil(duration_s / width_s)
    offered = [0] * count
    latencies: list[list[float]] = [[] for _ in range(count)]
    ok, errors = [0] * count, [0] * count

    def slice_of(at_s: float) -> int:
        return min(int((at_s - start_s) // width_s), count - 1)

    for record in records:
        offered[slice_of(record.intended_s)] += 1
        if record.result == "ok":
            ok[slice_of(record.done_s)] += 1
            latencies[slice_of(record.intended_s)].append(record.latency_s)
        else:
            errors[slice_of(record.done_s)] += 1
    found = []
    for number in range(count):
        of_ok = spread(latencies[number])
        found.append(
            Interval(
                start_s=number * width_s,
                full=(number + 1) * width_s <= offered_s,
                offered_per_s=offered[number] / width_s,
                ok_per_s=ok[number] / width_s,
                errors_per_s=errors[number] / width_s,
                p50_ms=None if of_ok is None else of_ok.p50_ms,
                p95_ms=None if of_ok is None else of_ok.p95_ms,
            )
        )
    return tuple(found)


def _retries(records: Sequence[Record]) -> Retries:
    retried = [refusal for record in records for refusal in record.retried]
    return Retries(
        refusals=sum(record.refusals for record in records),
        with_retry_after=sum(record.named for record in records),
        retried=len(retried),
        too_soon=sum(one.asked_s is not None and one.waited_s < one.asked_s - _CLOCK_S for one in retried),
        let_in=sum(one.was_let_in for one in retried),
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent, method="inverted_cdf"))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
