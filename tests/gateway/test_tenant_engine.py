"""The engines as a tenant sees them: its turn, its salt, and what waiting leaves of a deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dear_serving.gateway.fair_queue import FairQueue
from dear_serving.gateway.tenant_engine import TenantEngine
from dear_serving.protocol import GenerationRequest, OpenAIRequest, PermutationRequest, ScoreRequest
from dear_serving.tenancy.tenants import Tenant
from tests.support.fake_engine import FakeEngine

WINDOW = PermutationRequest(
    [1, 2, 3], ((4,), (5,), (6, 7)), (8, 9), needed=2, adapter=None, request_id="w", deadline_s=10.0
)


class Spy(FakeEngine):
    """Keeps the requests it is sent."""

    seen: list[Any]

    async def permute(self, request: PermutationRequest) -> Any:
        self.seen.append(request)
        return await super().permute(request)


@pytest.fixture
def spy(engine: FakeEngine) -> Spy:
    engine.__class__ = Spy
    engine.seen = []
    return engine  # type: ignore[return-value]


async def wait_behind(queue: FairQueue, seconds: float) -> None:
    async with queue.turn("other", 1.0, 10**9):
        await asyncio.sleep(seconds)


async def test_waiting_counts_against_the_deadline_and_as_queue_time(spy: Spy) -> None:
    queue = FairQueue(alone=100, shared=100)
    tenant = TenantEngine(spy, queue, Tenant("acme", cache_salt="salt"))
    ahead = asyncio.create_task(wait_behind(queue, 0.2))
    await asyncio.sleep(0)
    window = await tenant.permute(WINDOW)
    await ahead
    assert window.usage.queue_ms >= 190
    (request,) = spy.seen
    assert request.cache_salt == "salt"
    assert 9.0 < request.deadline_s <= 9.81
    assert queue.cost == 0


async def test_a_deadline_that_passed_while_waiting_leaves_the_first_step(spy: Spy) -> None:
    queue = FairQueue(alone=100, shared=100)
    tenant = TenantEngine(spy, queue, Tenant("acme"))
    ahead = asyncio.create_task(wait_behind(queue, 0.1))
    await asyncio.sleep(0)
    hurried = PermutationRequest([1], ((4,), (5,)), (8,), 2, None, "w", deadline_s=0.01)
    await tenant.permute(hurried)
    await ahead
    assert spy.seen[0].deadline_s == 0.0


async def test_scores_wait_for_their_turn_with_all_their_tokens(engine: FakeEngine) -> None:
    queue = FairQueue(alone=100, shared=100)
    tenant = TenantEngine(engine, queue, Tenant("acme", cache_salt="salt"))
    ahead = asyncio.create_task(wait_behind(queue, 0.2))
    await asyncio.sleep(0)
    asked = asyncio.create_task(
        tenant.score(ScoreRequest([[1, 2], [3, 4, 5]], (6, 7), None, "s", deadline_s=10.0))
    )
    await asyncio.sleep(0)
    assert queue.cost == 10**9 + 7
    scores = await asked
    await ahead
    assert scores.usage.queue_ms >= 190
    (request,) = engine.scored
    assert (request.cache_salt, request.tokens) == ("salt", 7)
    assert request.deadline_s is not None
    assert 9.0 < request.deadline_s <= 9.81
    assert queue.cost == 0


async def test_streams_hold_their_place_until_they_are_closed(engine: FakeEngine) -> None:
    queue = FairQueue(alone=100, shared=100)
    windows = TenantEngine(engine, queue, Tenant("acme")).permute_stream(WINDOW)
    await anext(windows)
    assert queue.cost == WINDOW.tokens
    await windows.aclose()
    assert queue.cost == 0


async def test_an_engine_that_fails_frees_the_place(engine: FakeEngine) -> None:
    engine.dead = True
    queue = FairQueue(alone=100, shared=100)
    with pytest.raises(Exception, match="engine"):
        await TenantEngine(engine, queue, Tenant("acme")).generate(GenerationRequest([1, 2], 5, None, "g"))
    assert queue.cost == 0


def test_a_window_costs_its_prompt_and_its_answer() -> None:
    assert WINDOW.tokens == 3 + 2 * (2 + 2)


def test_free_text_costs_more_a_token_than_its_prompt() -> None:
    assert GenerationRequest([1, 2], 5, None, "g").cost == 2 + 4 * 5
    request = OpenAIRequest("completions", {}, "r", 30, new_tokens=5, prompts=3, sequences=6)
    assert request.cost == 30 + 4 * 6 * 5
    assert request.tokens == 6 * (10 + 5)
