"""How good orders are, by ir-measures: per query and on average."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import ir_measures
from ir_measures.measures import Measure

from dear_tools.evaluation.qrels import Qrels
from dear_tools.exits import ToolError

Values: TypeAlias = dict[str, dict[str, float]]
"""Values by measure (in ir-measures' notation) and query id, most of them from 0 to 1."""


def default_measures(depth: int) -> tuple[str, ...]:
    """What is reported where nothing else is asked for; recall is that of the whole candidate list."""
    return ("nDCG@1", "nDCG@5", "nDCG@10", "AP", f"R@{depth}")


def parse_measures(names: Iterable[str], relevant_from: int) -> tuple[Measure, ...]:
    """Measures by their notation, such as ``nDCG@10`` or ``R(rel=2)@100``.

    Args:
        relevant_from: the lowest grade that measures with two grades hold to be relevant, where the notation
            does not say. TREC DL's passages: 2.

    Raises:
        ToolError: no notation of ir-measures.
    """
    found: dict[str, Measure] = {}
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            if relevant_from != 1 and "rel" in measure.SUPPORTED_PARAMS and "rel" not in measure.params:
                measure = measure(rel=relevant_from)
        except (NameError, ValueError, SyntaxError):
            raise ToolError(f"{name!r} is no measure of ir-measures, such as nDCG@10, AP or R@100") from None
        found[str(measure)] = measure
    return tuple(found.values())


def measured(measures: Sequence[Measure], qrels: Qrels, orders: Mapping[str, Sequence[str]]) -> Values:
    """The value of every measure for every judged query; 0 for one without an order.

    Args:
        orders: document ids, best first, by query id.

    Raises:
        ToolError: a measure whose provider is not installed or does not run.
    """
    run = {
        query: {document: float(len(order) - index) for index, document in enumerate(order)}
        for query, order in orders.items()
    }
    values: Values = {str(measure): dict.fromkeys(qrels, 0.0) for measure in measures}
    try:
        for metric in ir_measures.iter_calc(list(measures), qrels, run):
            values[str(metric.measure)][metric.query_id] = float(metric.value)
    except (ValueError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(error).split())
        raise ToolError(f"ir-measures cannot compute {', '.join(map(str, measures))}: {reason}") from None
    return values


def mean(values: Mapping[str, float]) -> float:
    """The mean over queries."""
    return sum(values.values()) / len(values)
