"""Whether a difference between two orders of the same queries is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 10_000
_SEED = 20_23


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
