"""Prompts scored by the label that answers each, over a decoder that does as it is told."""

from __future__ import annotations

import asyncio
import math

import pytest

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import Backlog, DecodedWindow, PermutationRequest, ScoreRequest
from dear_serving.replica.prompt_scores import scored
from dear_serving.types import Usage

REQUEST = ScoreRequest([[1, 2], [3], [4]], (7, 8, 9), "point@1", "r", 5, None, "salt", Backlog("g", 1))


def window(prompt: PermutationRequest, *shares: float) -> DecodedWindow:
    return DecodedWindow(
        (0, 1, 2), 0, tuple(map(math.log, shares)), Usage(len(prompt.token_ids), 1, 1.0, 2.0)
    )


async def test_each_prompt_is_one_forward_pass_that_chooses_among_the_labels() -> None:
    asked: list[PermutationRequest] = []

    async def decode(prompt: PermutationRequest) -> DecodedWindow:
        asked.append(prompt)
        return window(prompt, 0.75, 0.125, 0.125)

    answer = await scored(REQUEST, decode)
    assert answer.scores == pytest.approx([math.log(3)] * 3)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.engine_ms) == (4, 3, 2.0)
    assert [one.token_ids for one in asked] == REQUEST.prompts
    assert {one.identifiers for one in asked} == {((7,), (8,), (9,))}
    assert {(one.needed, one.adapter, one.priority, one.cache_salt) for one in asked} == {
        (0, "point@1", 5, "salt")
    }
    assert len({one.request_id for one in asked}) == 3


async def test_what_is_not_done_at_the_deadline_is_left_out_and_cancelled() -> None:
    cancelled = []

    async def decode(prompt: PermutationRequest) -> DecodedWindow:
        if prompt.token_ids == [3]:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(prompt)
                raise
        return window(prompt, 0.5, 0.25, 0.25)

    answer = await scored(ScoreRequest(REQUEST.prompts, REQUEST.labels, None, "r", deadline_s=0.3), decode)
    assert answer.scores == (pytest.approx(0.0), None, pytest.approx(0.0))
    assert answer.usage.prompt_tokens == 3
    assert len(cancelled) == 1


async def test_a_prompt_that_fails_fails_the_request_and_ends_the_others() -> None:
    ended = []

    async def decode(prompt: PermutationRequest) -> DecodedWindow:
        if prompt.token_ids == [3]:
            raise EngineUnavailable("the engine died", failed=True)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(prompt)
        raise AssertionError

    with pytest.raises(EngineUnavailable):
        await scored(REQUEST, decode)
    assert len(ended) == 2
