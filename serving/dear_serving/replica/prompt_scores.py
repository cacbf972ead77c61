"""Scores the prompts of a request at once, each in one forward pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from dear_serving.protocol import PermutationRequest, PromptScores, ScoreRequest
from dear_serving.types import Usage

ScoreOne = Callable[[int], Awaitable[tuple[float, Usage]]]
"""Scores the prompt at a place in its request: log odds, and the work."""


async def scored(request: ScoreRequest, score_one: ScoreOne) -> PromptScores:
    """Score all prompts of a request.

    Args:
        request: what is not scored at its deadline is left out.
        score_one: it is cancelled at the deadline, and where another one failed.

    Raises:
        EngineUnavailable: ``score_one`` did, for any prompt.
    """
    tasks = [asyncio.ensure_future(score_one(place)) for place in range(len(request.prompts))]
    try:
        done, _ = await asyncio.wait(tasks, timeout=request.deadline_s, return_when=asyncio.FIRST_EXCEPTION)
        answers = [task.result() if task in done else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return PromptScores(
        tuple(None if answer is None else answer[0] for answer in answers),
        Usage.side_by_side(answer[1] for answer in answers if answer is not None),
    )


def label_window(request: ScoreRequest, place: int) -> PermutationRequest:
    """A prompt as a window whose identifiers are the labels, of which the first step alone is wanted."""
    return PermutationRequest(
        request.prompts[place],
        tuple((label,) for label in request.labels),
        request.labels[:1],
        0,
        request.adapter,
        f"{request.request_id}-{place}",
        request.priority,
        cache_salt=request.cache_salt,
        backlog=request.backlog,
        trace_headers=request.trace_headers,
    )


def log_odds(log_probs: Sequence[float]) -> float:
    """Of the first label against all others together."""
    return log_probs[0] - float(np.logaddexp.reduce(log_probs[1:]))
