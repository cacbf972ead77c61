"""Scores prompts by the label that answers each, in one forward pass a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import numpy as np

from dear_serving.protocol import DecodedWindow, PermutationRequest, PromptScores, ScoreRequest
from dear_serving.types import Usage


async def scored(
    request: ScoreRequest, decode: Callable[[PermutationRequest], Awaitable[DecodedWindow]]
) -> PromptScores:
    """Score all prompts of a request at once, each as a window whose identifiers are the labels.

    Args:
        request: has labels.
        decode: ranks a window; it is cancelled at the request's deadline, and where another one failed.

    Raises:
        EngineUnavailable: ``decode`` did, for any prompt.
    """
    tasks = [asyncio.ensure_future(decode(window)) for window in _windows(request)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=request.deadline_s, return_when=asyncio.FIRST_EXCEPTION)
        windows = [task.result() if task in done else None for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return PromptScores(
        tuple(None if window is None else _log_odds(window.log_probs) for window in windows),
        Usage.side_by_side(window.usage for window in windows if window is not None),
    )


def _windows(request: ScoreRequest) -> Iterable[PermutationRequest]:
    for place, prompt in enumerate(request.prompts):
        yield PermutationRequest(
            prompt,
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


def _log_odds(log_probs: tuple[float, ...]) -> float:
    """Of the first label against all others together."""
    return log_probs[0] - float(np.logaddexp.reduce(log_probs[1:]))
