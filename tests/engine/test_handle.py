"""What the gateway makes of a replica's answers and failures, over handles that behave as Serve's do."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from dear_serving.engine.handle import ServeEngine
from dear_serving.engine.protocol import EngineRequest
from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError, UnknownModel
from dear_serving.types import Generation

REQUEST = EngineRequest([1, 2, 3], 8, None, "r")
ANSWER = Generation("[0]", 3, 1, 0.0, 1.0)


class Response:
    """One pending answer: a value, an error, or None for one that never comes."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> object:
        if self.outcome is None:
            await asyncio.sleep(60)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def __aiter__(self) -> AsyncIterator[object]:
        return self._items()

    async def _items(self) -> AsyncIterator[object]:
        assert isinstance(self.outcome, list)
        for item in self.outcome:
            if isinstance(item, Exception):
                raise item
            await asyncio.sleep(0)
            yield item


class Handle:
    """Gives the listed outcomes, one a call, to whatever method is called."""

    def __init__(self, *outcomes: object) -> None:
        self.responses = [Response(outcome) for outcome in outcomes]
        self.calls = 0

    def options(self, **options: object) -> Handle:
        return self

    def __getattr__(self, method: str) -> Handle:
        return self

    def remote(self, *args: object) -> Response:
        self.calls += 1
        return self.responses[self.calls - 1]


def engine_over(handle: Handle, *running: int) -> ServeEngine:
    """An engine whose replicas are counted as ``running``, one count a look, the last for ever."""
    counts = list(running or (1,))
    return ServeEngine(handle, lambda: counts.pop(0) if len(counts) > 1 else counts[0])  # type: ignore[arg-type]


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "traceback", cause)


async def test_a_call_whose_replica_died_is_sent_once_more() -> None:
    handle = Handle(ActorDiedError(), ANSWER)
    assert await engine_over(handle).generate(REQUEST) == ANSWER
    assert handle.calls == 2


async def test_a_second_death_is_unavailable() -> None:
    handle = Handle(ActorDiedError(), ActorDiedError())
    with pytest.raises(EngineUnavailable) as raised:
        await engine_over(handle).generate(REQUEST)
    assert raised.value.retry_after_s is not None
    assert handle.calls == 2


@pytest.mark.parametrize(
    "failure",
    [
        DeploymentUnavailableError("Engine"),
        BackPressureError(num_queued_requests=1, max_queued_requests=1),
        ConnectionError("gone"),
        task_error(EngineUnavailable("the engine is restarting", retry_after_s=3.0)),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_is_wrong_with_the_replica_is_unavailable(failure: Exception) -> None:
    with pytest.raises(EngineUnavailable):
        await engine_over(Handle(failure)).generate(REQUEST)


async def test_what_the_replica_raised_on_purpose_arrives_as_itself() -> None:
    with pytest.raises(UnknownModel, match="not loaded") as raised:
        await engine_over(Handle(task_error(UnknownModel("not loaded", param="model")))).generate(REQUEST)
    assert raised.value.param == "model"


async def test_a_cancelled_call_cancels_the_replicas_work() -> None:
    handle = Handle(None)
    task = asyncio.create_task(engine_over(handle).generate(REQUEST))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].cancelled


async def test_a_stream_that_is_closed_cancels_the_replicas_work() -> None:
    handle = Handle(["one", "two", "three"])
    stream = engine_over(handle).openai("chat", {}, "r")
    assert await anext(stream) == "one"
    await stream.aclose()
    assert handle.responses[0].cancelled


async def test_a_stream_that_fails_raises_our_error() -> None:
    handle = Handle(["one", ActorDiedError()])
    stream = engine_over(handle).openai("chat", {}, "r")
    assert await anext(stream) == "one"
    with pytest.raises(EngineUnavailable):
        await anext(stream)


@pytest.mark.parametrize("error", [InvalidRequest("m", param="f"), EngineUnavailable("m", retry_after_s=2.5)])
def test_errors_cross_processes_whole(error: RequestError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.param, copy.retry_after_s) == (error.message, error.param, error.retry_after_s)


async def test_without_a_running_replica_calls_fail_instead_of_waiting() -> None:
    handle = Handle(ANSWER)
    engine = engine_over(handle, 0)
    for call in (engine.generate(REQUEST), engine.check_ready(), engine.metrics()):
        with pytest.raises(EngineUnavailable):
            await call
    with pytest.raises(EngineUnavailable):
        await anext(engine.openai("chat", {}, "r"))
    assert handle.calls == 0


async def test_calls_in_flight_fail_when_the_last_replica_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.engine.handle._WATCH_S", 0.02)
    handle = Handle(None)
    async with asyncio.timeout(2):
        with pytest.raises(EngineUnavailable):
            await engine_over(handle, 1, 1, 0).generate(REQUEST)
    assert handle.responses[0].cancelled


async def test_a_replica_that_comes_back_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.engine.handle._WATCH_S", 0.02)
    engine = engine_over(Handle(ANSWER), 0, 1)
    with pytest.raises(EngineUnavailable):
        await engine.generate(REQUEST)
    await asyncio.sleep(0.2)
    assert await engine.generate(REQUEST) == ANSWER


async def test_what_was_known_stays_while_serves_controller_restarts() -> None:
    def fail() -> int:
        raise RayActorError

    assert await ServeEngine(Handle(ANSWER), fail).generate(REQUEST) == ANSWER  # type: ignore[arg-type]
