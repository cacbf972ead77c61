"""How good orders are, by ir-measures, and whether a difference is more than chance."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import ir_measures
import numpy as np
from ir_measures.measures import Measure
from scipy import stats

from dear_tools.evaluation.trec import Qrels
from dear_tools.exits import ToolError

RESAMPLES = 10_000
_SEED = 20_23

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


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired comparison over queries; ``difference`` is the mean of after minus before.

    Args:
        low: lower end of the difference's 95% confidence interval, by bootstrap over queries.
        high: its upper end.
        p_randomisation: two-sided, of Fisher's randomisation test: the signs of the queries' differences are
            flipped at random, all ways where there are no more than RESAMPLES of them. Smucker, Allan and
            Carterette (CIKM 2007) recommend it for retrieval.
        p_t: two-sided, of Student's paired t-test; None where the differences do not vary.
        effect_size: Cohen's d of paired differences: their mean over their standard deviation; None where
            they do not vary.
        better: queries whose value rose, and so on.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    p_randomisation: float
    p_t: float | None
    effect_size: float | None
    better: int
    equal: int
    worse: int


def compare(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Compare two values of each query, at least one query, in the same order; the same every time."""
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    differences = second - first
    varies = len(differences) > 1 and float(np.ptp(differences)) > 1e-12
    deviation = float(np.std(differences, ddof=1)) if varies else 0.0
    low, high = _interval(differences)
    return Comparison(
        before=float(first.mean()),
        after=float(second.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_randomisation=_randomisation(differences),
        p_t=float(stats.ttest_rel(second, first).pvalue) if varies else None,
        effect_size=float(differences.mean()) / deviation if varies else None,
        better=int((differences > 0).sum()),
        equal=int((differences == 0).sum()),
        worse=int((differences < 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for being several, in their order: Holm's step-down procedure."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _randomisation(differences: np.ndarray) -> float:
    if len(differences) < 2 or not differences.any():
        return 1.0
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return float(test.pvalue)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    if len(differences) < 2:
        return float(differences[0]), float(differences[0])
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)
