"""The prompts of a request, each scored by what does as it is told."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import Backlog, ScoreRequest
from dear_serving.replica.prompt_scores import label_window, log_odds, scored
from dear_serving.types import Usage

REQUEST = ScoreRequest([[1, 2], [3], [4]], (7, 8, 9), "point@1", "r", 5, None, "salt", Backlog("g", 1))


USAGE = Usage(prompt_tokens=2, completion_tokens=1, queue_ms=1.0, engine_ms=2.0)


def test_a_prompt_is_a_window_of_which_the_first_step_is_wanted() -> None:
    windows = [label_window(REQUEST, place) for place in range(3)]
    assert [one.token_ids for one in windows] == REQUEST.prompts
    assert {one.identifiers for one in windows} == {((7,), (8,), (9,))}
    assert {(one.needed, one.adapter, one.priority, one.cache_salt) for one in windows} == {
        (0, "point@1", 5, "salt")
    }
    assert len({one.request_id for one in windows}) == 3


def test_the_first_label_is_held_against_all_others_together() -> None:
    assert log_odds([math.log(0.75), math.log(0.125), math.log(0.125)]) == pytest.approx(math.log(3))
    assert log_odds([-3000.0, 0.0]) == -3000.0


async def test_all_prompts_are_scored_at_once_and_their_work_adds_up() -> None:
    together = asyncio.Barrier(3)

    async def score_one(place: int) -> tuple[float, Usage]:
        await together.wait()
        return float(place), USAGE

    answer = await scored(REQUEST, score_one)
    assert answer.scores == (0.0, 1.0, 2.0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.engine_ms) == (6, 3, 2.0)


async def test_what_is_not_done_at_the_deadline_is_left_out_and_cancelled() -> None:
    cancelled = []

    async def score_one(place: int) -> tuple[float, Usage]:
        if place == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(place)
                raise
        return 0.5, USAGE

    answer = await scored(replace(REQUEST, deadline_s=0.3), score_one)
    assert answer.scores == (0.5, None, 0.5)
    assert answer.usage.prompt_tokens == 4
    assert cancelled == [1]


async def test_a_prompt_that_fails_fails_the_request_and_ends_the_others() -> None:
    ended = []

    async def score_one(place: int) -> tuple[float, Usage]:
        if place == 1:
            raise EngineUnavailable("the engine died", failed=True)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(place)
        raise AssertionError

    with pytest.raises(EngineUnavailable):
        await scored(REQUEST, score_one)
    assert sorted(ended) == [0, 2]
