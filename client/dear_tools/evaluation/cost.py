"""What the answers took, and how the model held to its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dear_tools.evaluation.answers import Answer
from dear_tools.evaluation.topics import Topic

REPAIRS = ("repeated", "missing", "out_of_range", "unparseable")


@dataclass(frozen=True, slots=True)
class Cost:
    """What the answered queries took.

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


def cost_of(answers: Sequence[Answer], elapsed_s: float | None) -> Cost:
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


def orders_of(answers: Sequence[Answer], topics: Sequence[Topic], top_n: int | None) -> Orders:
    """What the orders of answers, at least one, are worth as orders."""
    by_id = {topic.id: topic for topic in topics}
    valid = identical = 0
    for answer in answers:
        first = by_id[answer.query].order
        wanted = min(top_n or len(first), len(first))
        is_whole = len(answer.order) == len(set(answer.order)) == wanted and set(answer.order) <= set(first)
        valid += is_whole and not any(_repairs(answer).values())
        identical += answer.order == first[: len(answer.order)]
    is_known = all(answer.repairs is not None for answer in answers)
    repairs = (
        {kind: sum(_repairs(answer)[kind] for answer in answers) for kind in REPAIRS} if is_known else None
    )
    count = len(answers)
    return Orders(count, valid, valid / count, identical, identical / count, repairs)


def _repairs(answer: Answer) -> dict[str, int]:
    return {kind: 0 if answer.repairs is None else getattr(answer.repairs, kind) for kind in REPAIRS}
