"""FakeEngine keeps the protocol's promises, so that what is tested over it holds over an engine."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import (
    DecodedWindow,
    Engine,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
)
from tests.support.fake_engine import FakeEngine

CHAT = OpenAIRequest("chat", {"model": "m"}, "r", 1, 1)
TEXT = GenerationRequest([1, 2, 3], 8, None, "r")


def window_of(count: int = 4, needed: int = 4, deadline_s: float | None = None) -> PermutationRequest:
    identifiers = tuple((10 + place,) for place in range(count))
    return PermutationRequest([1, 2, 3], identifiers, (90,), needed, None, "w", deadline_s=deadline_s)


def backwards(request: PermutationRequest) -> range:
    return range(len(request.identifiers) - 1, -1, -1)


def fake(**options: object) -> FakeEngine:
    return FakeEngine(lambda _: "so it is", backwards, **options)


async def told(engine: FakeEngine, request: PermutationRequest) -> list[DecodedWindow]:
    return [window async for window in engine.permute_stream(request)]


async def test_it_is_an_engine_that_keeps_what_it_was_asked() -> None:
    engine: Engine = fake()
    assert (await engine.generate(TEXT)).text == "so it is"
    await engine.permute(window_of())
    await engine.check_ready()
    assert "fake_requests_total 1.0" in await engine.metrics()
    assert isinstance(engine, FakeEngine)
    assert engine.requests == [TEXT, window_of()]
    assert (engine.finished, engine.cancelled) == (2, 0)


async def test_without_a_preference_windows_stay_as_shown() -> None:
    assert (await FakeEngine(lambda _: "").permute(window_of())).order == (0, 1, 2, 3)


@pytest.mark.parametrize("needed", [0, 1, 3, 4])
async def test_a_window_is_decided_as_far_as_needed_in_the_preferred_order(needed: int) -> None:
    window = await fake().permute(window_of(needed=needed))
    assert (window.order, window.decided) == ((3, 2, 1, 0), needed)
    assert window.usage.prompt_tokens == 3


async def test_log_probabilities_fall_along_the_preference() -> None:
    window = await fake().permute(window_of())
    along = [window.log_probs[position] for position in window.order]
    assert all(math.isclose(a - b, math.log(2)) for a, b in itertools.pairwise(along))
    assert sum(map(math.exp, along)) <= 1


async def test_a_stream_tells_rank_by_rank_and_ends_in_the_whole_answer() -> None:
    windows = await told(fake(), window_of(needed=3))
    assert [window.decided for window in windows] == [1, 2, 3]
    assert {window.order for window in windows} == {(3, 2, 1, 0)}
    assert windows[-1] == await fake().permute(window_of(needed=3))


@pytest.mark.parametrize(("deadline_s", "decided"), [(None, 4), (5.0, 2)])
async def test_it_decides_less_where_there_is_a_deadline(deadline_s: float | None, decided: int) -> None:
    engine, request = fake(decides=2), window_of(deadline_s=deadline_s)
    assert (await engine.permute(request)).decided == decided
    assert (await told(engine, request))[-1].decided == decided


async def test_a_dead_engine_is_unavailable_in_every_call() -> None:
    engine = fake(dead=True)
    calls = [engine.generate(TEXT), engine.permute(window_of()), engine.check_ready()]
    for call in [*calls, anext(engine.permute_stream(window_of())), anext(engine.openai(CHAT))]:
        with pytest.raises(EngineUnavailable):
            await call
    assert await engine.metrics() == ""
    assert engine.finished == 0


async def test_cancelled_calls_are_counted() -> None:
    engine = fake(delay_s=60)
    calls = [engine.generate(TEXT), engine.permute(window_of()), told(engine, window_of())]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (engine.cancelled, engine.finished) == (3, 0)
