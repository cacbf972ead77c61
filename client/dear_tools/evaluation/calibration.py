"""Whether the confidence of a rank is the share of ranks that are right."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from dear_tools.evaluation.results import QueryResult
from dear_tools.evaluation.trec import Qrels
from dear_tools.exits import ToolError
from dear_tools.wording import queries

Floats = NDArray[np.float64]

BINS = 10
_EDGE = 0.01
_PRIOR = 1.0
_LEAST_PAIRS = 20


@dataclass(frozen=True, slots=True)
class Bin:
    """As many pairs as in the other bins: their mean confidence, and the share of them that is right."""

    pairs: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How well confidences are calibrated.

    Args:
        ece: expected calibration error: the mean distance of confidence and share, over the bins' pairs.
        brier: mean squared error of the confidences.
    """

    ece: float
    brier: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the judgements say of the confidences.

    A **pair** is two neighbours of an answer whose grades differ (unjudged: 0); it is right if the first one
    has the higher grade. Neighbours of one grade say nothing and are left out.

    Args:
        queries: with at least one pair.
        pairs: and ``tied``: neighbours of one grade.
        right: share of the pairs.
        before: the confidences as they came.
        after: the same through the map, each query's with the map fitted on the other half of the queries.
        slope: and ``intercept`` of the map, fitted on all queries: sigmoid(slope * logit(c) + intercept),
            with c within 0.01 and 0.99.
        certified: pairs whose first place is certified; ``certified_right``: share of them, None without any.
    """

    queries: int
    pairs: int
    tied: int
    right: float
    before: Fit
    after: Fit
    slope: float
    intercept: float
    certified: int
    certified_right: float | None


def calibrate(answers: Sequence[QueryResult], qrels: Qrels, group: Callable[[str], str] = str) -> Calibration:
    """Compare confidences with judgements.

    Args:
        answers: with confidences.
        group: of a query; groups in turn make up the two halves, so that no group is in both.

    Raises:
        ToolError: no confidences, or too few pairs to say anything.
    """
    if not any(answer.confidences for answer in answers):
        raise ToolError("--calibration: the server says of no rank how sure it is")
    found, tied = [], 0
    halves: dict[str, int] = {}
    is_second: list[bool] = []
    for answer in answers:
        pairs, of_one_grade = _pairs(answer, qrels.get(answer.query, {}))
        tied += of_one_grade
        if len(pairs):
            found.append(pairs)
            half = halves.setdefault(group(answer.query), len(halves) % 2)
            is_second += [half == 1] * len(pairs)
    pairs = np.concatenate([np.empty((0, 3)), *found])
    if len(pairs) < _LEAST_PAIRS or len(halves) < 2:
        raise ToolError(
            f"--calibration: {len(pairs)} neighbours have different grades, and at least {_LEAST_PAIRS} of "
            "two queries are needed"
        )
    confidence, is_right, is_certified = pairs[:, 0], pairs[:, 1] == 1, pairs[:, 2] == 1
    mapped, second = np.empty_like(confidence), np.array(is_second)
    for held_out in (second, ~second):
        mapped[held_out] = _mapped(confidence[held_out], *_map(confidence[~held_out], is_right[~held_out]))
    slope, intercept = _map(confidence, is_right)
    return Calibration(
        queries=len(found),
        pairs=len(pairs),
        tied=tied,
        right=float(is_right.mean()),
        before=_fit(confidence, is_right),
        after=_fit(mapped, is_right),
        slope=slope,
        intercept=intercept,
        certified=int(is_certified.sum()),
        certified_right=float(is_right[is_certified].mean()) if is_certified.any() else None,
    )


def _pairs(answer: QueryResult, grades: Mapping[str, int]) -> tuple[Floats, int]:
    """Of neighbours with different grades: confidence, whether they are right, whether the first place is
    certified; and how many neighbours have one grade."""
    graded = [grades.get(document, 0) for document in answer.order]
    sureness = zip(answer.confidences, answer.certified, strict=True)
    pairs, tied = [], 0
    for (confidence, certified), (first, second) in zip(sureness, pairwise(graded), strict=False):
        if first == second:
            tied += 1
        elif confidence is not None:
            pairs.append((confidence, first > second, certified))
    return np.array(pairs, float).reshape(-1, 3), tied


def _map(confidence: Floats, is_right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept by maximum likelihood (Platt's scaling), drawn a little towards 1 and 0."""
    odds = _odds(confidence)

    def loss(at: Floats) -> float:
        likelihood = np.logaddexp(0, np.where(is_right, -1, 1) * (at[0] * odds + at[1])).sum()
        return float(likelihood + _PRIOR / 2 * ((at[0] - 1) ** 2 + at[1] ** 2))

    slope, intercept = minimize(loss, np.array([1.0, 0.0])).x
    return float(slope), float(intercept)


def _mapped(confidence: Floats, slope: float, intercept: float) -> Floats:
    return np.asarray(expit(slope * _odds(confidence) + intercept))


def _odds(confidence: Floats) -> Floats:
    return np.asarray(logit(np.clip(confidence, _EDGE, 1 - _EDGE)))


def _fit(confidence: Floats, is_right: NDArray[np.bool_]) -> Fit:
    order = np.argsort(confidence, kind="stable")
    bins = [
        Bin(len(part), float(confidence[part].mean()), float(is_right[part].mean()))
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    ece = sum(one.pairs * abs(one.confidence - one.right) for one in bins) / len(order)
    return Fit(ece, float(np.mean((confidence - is_right) ** 2)), tuple(bins))


def as_json(found: Calibration) -> str:
    """For calibration.json."""
    return json.dumps(asdict(found), indent=1) + "\n"


def lines(found: Calibration) -> list[str]:
    """For people."""
    proved = (
        ""
        if found.certified_right is None
        else f"; of {found.certified} with a certified first place {found.certified_right:.0%}"
    )
    return [
        f"confidence: {found.pairs} pairs of neighbours with different grades, of {queries(found.queries)}; "
        f"{found.right:.0%} in the right order{proved}",
        f"expected calibration error: {found.before.ece:.3f} as it came, {found.after.ece:.3f} mapped "
        f"(Brier {found.before.brier:.3f} and {found.after.brier:.3f}), measured on the half of the queries "
        "that the map was not fitted on",
        f"the map: sigmoid({found.slope:.2f} * logit(confidence) {found.intercept:+.2f})",
    ]


def reliability_plot(found: Calibration) -> bytes:
    """The share of right pairs over their confidence, before and after the map, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="calibrated")
    for name, fit, marker in (("as it came", found.before, "o"), ("mapped, held out", found.after, "s")):
        xs, ys = [one.confidence for one in fit.bins], [one.right for one in fit.bins]
        spread = [(y * (1 - y) / one.pairs) ** 0.5 for y, one in zip(ys, fit.bins, strict=True)]
        label = f"{name}: error {fit.ece:.3f}"
        axes.errorbar(xs, ys, yerr=spread, marker=marker, capsize=2, linewidth=1, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share in the right order")
    axes.set_title(f"{found.pairs} pairs of neighbours, {queries(found.queries)}", fontsize=10)
    axes.legend(fontsize=8.5, loc="upper left")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()
