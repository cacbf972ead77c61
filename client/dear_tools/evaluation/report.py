"""Everything an evaluation found, as one value; ``as_json`` is what report.json and ``--json`` hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ir_measures.measures import Measure

from dear_tools.evaluation.collection import Collection, Topic
from dear_tools.evaluation.measures import Comparison, Values, compare, holm, mean, measured
from dear_tools.evaluation.presets import Published
from dear_tools.evaluation.results import QueryResult
from dear_tools.wording import counted, queries

REPAIRS = ("repeated", "missing", "out_of_range", "unparseable")


@dataclass(frozen=True, slots=True)
class Row:
    """A measure's means, from 0 to 1, and how sure the difference is.

    Args:
        first_stage: the candidates as they came.
        comparison: this run (``after``) with the first stage or the run named by ``against`` (``before``).
        p_holm: the randomisation test's p, adjusted for all measures of the report together (Holm).
    """

    measure: str
    first_stage: float
    comparison: Comparison
    p_holm: float


@dataclass(frozen=True, slots=True)
class Beside:
    """A published figure beside ours, both times 100; ``ours`` is None where it was not measured."""

    published: Published
    ours: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Args:
        rows: None where a query failed: means over the others would be another collection's.
        per_query: values by query id and measure, ``before`` and ``after`` as in Comparison.
        settings: what decided the answers.
        answered_by: the revisions (else models) that answered.
        failed: reasons by query id.
    """

    name: str
    first_stage: str
    against: str
    queries: int
    rows: tuple[Row, ...] | None
    per_query: Mapping[str, Mapping[str, tuple[float, float]]] | None
    orders: Orders | None
    cost: Cost | None
    published: tuple[Beside, ...]
    answered_by: tuple[str, ...]
    settings: Mapping[str, Any]
    failed: Mapping[str, str]
    warnings: tuple[str, ...]


def as_json(report: Report | Sequence[Report]) -> str:
    """A report, or a list of them, as JSON: values from 0 to 1, but published ones and ours beside them."""
    value = asdict(report) if isinstance(report, Report) else [asdict(one) for one in report]
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_on(
    collection: Collection,
    answers: Sequence[QueryResult],
    settings: Mapping[str, Any],
    *,
    measures: Sequence[Measure],
    against: tuple[str, Mapping[str, tuple[str, ...]]] | None = None,
    published: Sequence[Published] = (),
    elapsed_s: float | None = None,
    has_cost: bool = True,
) -> Report:
    """Measure answers.

    Args:
        answers: one a topic.
        against: another run's name and orders; else the first stage is what is compared with.
        elapsed_s: from the first query to the last answer, where all of them are of one start.
        has_cost: whether something was asked; a known order costs nothing.
    """
    good = [answer for answer in answers if answer.error is None]
    failed = {answer.query: answer.error for answer in answers if answer.error is not None}
    rows = per_query = None
    if not failed:
        first = measured(measures, collection.qrels, collection.first_orders)
        before = first if against is None else measured(measures, collection.qrels, against[1])
        after = measured(measures, collection.qrels, ranked_orders(collection, good))
        rows = _rows(first, before, after)
        per_query = {
            query: {name: (before[name][query], after[name][query]) for name in after}
            for query in collection.qrels
        }
    wanted = settings.get("top_n")
    revisions = (answer.revision or answer.model for answer in good)
    answered_by = tuple(dict.fromkeys(one for one in revisions if one is not None))
    return Report(
        name=collection.name,
        first_stage=collection.first_stage,
        against=collection.first_stage if against is None else against[0],
        queries=len(collection.qrels),
        rows=rows,
        per_query=per_query,
        orders=orders_of(good, collection.topics, wanted) if good else None,
        cost=cost_of(good, elapsed_s) if good and has_cost else None,
        published=tuple(Beside(one, _ours(one, rows)) for one in published),
        answered_by=answered_by,
        settings=dict(settings),
        failed=failed,
        warnings=(*collection.warnings, *_warnings(good, answered_by)),
    )


def ranked_orders(collection: Collection, answers: Sequence[QueryResult]) -> dict[str, tuple[str, ...]]:
    """Whole orders by query id; what was not ranked follows as the first stage has it."""
    ranked = {answer.query: answer.order for answer in answers if answer.error is None}
    whole = {}
    for topic in collection.topics:
        if topic.id in ranked:
            head = ranked[topic.id]
            whole[topic.id] = (*head, *(one for one in topic.order if one not in set(head)))
    return whole


def _rows(first: Values, before: Values, after: Values) -> tuple[Row, ...]:
    compared = {
        name: compare(list(before[name].values()), [values[query] for query in before[name]])
        for name, values in after.items()
    }
    adjusted = holm([one.p_randomisation for one in compared.values()])
    return tuple(
        Row(name, mean(first[name]), comparison, p_holm)
        for (name, comparison), p_holm in zip(compared.items(), adjusted, strict=True)
    )


def _ours(published: Published, rows: Sequence[Row] | None) -> float | None:
    """Our figure for a published one: the same measure, or the same mean of measures."""
    by_name = {row.measure: row for row in rows or ()}
    if not set(published.measures) <= set(by_name):
        return None
    found = [by_name[name] for name in published.measures]
    values = [row.first_stage if published.of_first_stage else row.comparison.after for row in found]
    return 100 * sum(values) / len(values)


def _warnings(answers: Sequence[QueryResult], answered_by: Sequence[str]) -> list[str]:
    said = []
    if len(answered_by) > 1:
        said.append(f"the answers come from {len(answered_by)} revisions: {', '.join(answered_by)}")
    if warned := [answer for answer in answers if answer.warnings]:
        first = warned[0]
        said.append(
            f"the server warned about {queries(len(warned))}; about {first.query}: {first.warnings[0]}"
        )
    silent = sum(answer.repairs is None for answer in answers)
    if 0 < silent < len(answers):
        said.append(f"of {counted(silent, 'answer')} the server does not say what it repaired")
    return said


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of the answered queries.

    Args:
        calls: requests that were answered.
        windows: lists that the model read; None where the server does not say.
        wall_ms_median: a query's time from sending it to the whole reply; ``wall_ms_p95`` likewise.
        wall_s_added: these times added up: what a caller who sends one at a time would wait at most.
        elapsed_s: from start to end; None where answers of an earlier start are among them.
    """

    calls: int
    windows: int | None
    prompt_tokens: int
    completion_tokens: int
    tokens_per_query: float
    wall_ms_median: float
    wall_ms_p95: float
    wall_s_added: float
    elapsed_s: float | None


@dataclass(frozen=True, slots=True)
class Orders:
    """How many of the answers are what was asked for.

    Args:
        valid: whole permutations of what was asked for, with nothing repaired; ``valid_rate`` of 1.
        identical: as the first stage had it, which some models write without reading.
        repairs: by kind, over all windows; None where the server does not say.
    """

    answered: int
    valid: int
    valid_rate: float
    identical: int
    identical_rate: float
    repairs: Mapping[str, int] | None


def cost_of(answers: Sequence[QueryResult], elapsed_s: float | None) -> Cost:
    """The cost of answers, at least one."""
    wall_ms = [answer.wall_ms for answer in answers]
    windows = [answer.windows for answer in answers if answer.windows is not None]
    prompt = sum(answer.prompt_tokens for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return Cost(
        calls=len(answers),
        windows=sum(windows) if len(windows) == len(answers) else None,
        prompt_tokens=prompt,
        completion_tokens=completion,
        tokens_per_query=round((prompt + completion) / len(answers), 1),
        wall_ms_median=round(float(np.median(wall_ms)), 1),
        wall_ms_p95=round(float(np.percentile(wall_ms, 95)), 1),
        wall_s_added=round(sum(wall_ms) / 1e3, 2),
        elapsed_s=None if elapsed_s is None else round(elapsed_s, 2),
    )


def orders_of(answers: Sequence[QueryResult], topics: Sequence[Topic], top_n: int | None) -> Orders:
    """How many orders of answers, at least one, are valid."""
    by_id = {topic.id: topic for topic in topics}
    valid = identical = 0
    for answer in answers:
        first = by_id[answer.query].order
        wanted = min(top_n or len(first), len(first))
        is_whole = len(answer.order) == len(set(answer.order)) == wanted and set(answer.order) <= set(first)
        valid += is_whole and (answer.repairs is None or not answer.repairs.total)
        identical += answer.order == first[: len(answer.order)]
    is_known = all(answer.repairs is not None for answer in answers)
    repairs = (
        {kind: sum(_repairs(answer)[kind] for answer in answers) for kind in REPAIRS} if is_known else None
    )
    count = len(answers)
    return Orders(count, valid, valid / count, identical, identical / count, repairs)


def _repairs(answer: QueryResult) -> dict[str, int]:
    return {kind: 0 if answer.repairs is None else getattr(answer.repairs, kind) for kind in REPAIRS}
