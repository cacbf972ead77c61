"""Everything an evaluation found, as one value; ``as_json`` is what report.json and ``--json`` hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ir_measures.measures import Measure

from dear_tools.evaluation.answers import Answer
from dear_tools.evaluation.collection import Collection
from dear_tools.evaluation.cost import Cost, Orders, cost_of, orders_of
from dear_tools.evaluation.lines import counted, queries
from dear_tools.evaluation.measures import Values, mean, measured
from dear_tools.evaluation.published import Published
from dear_tools.evaluation.significance import Comparison, compare, holm


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
    answers: Sequence[Answer],
    settings: Mapping[str, Any],
    *,
    measures: Sequence[Measure],
    against: tuple[str, Mapping[str, tuple[str, ...]]] | None = None,
    published: Sequence[Published] = (),
    elapsed_s: float | None = None,
    has_cost: bool = True,
) -> Report:
    """Measure what answers are worth.

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


def ranked_orders(collection: Collection, answers: Sequence[Answer]) -> dict[str, tuple[str, ...]]:
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


def _warnings(answers: Sequence[Answer], answered_by: Sequence[str]) -> list[str]:
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
