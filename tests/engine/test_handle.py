"""What the gateway makes of a replica's answers and failures, over handles that behave as Serve's do."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
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

    async def __aiter__(self) -> AsyncIterator[object]:
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


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "traceback", cause)


async def test_a_call_whose_replica_died_is_sent_once_more() -> None:
    handle = Handle(ActorDiedError(), ANSWER)
    assert await ServeEngine(handle).generate(REQUEST) == ANSWER
    assert handle.calls == 2


async def test_a_second_death_is_unavailable() -> None:
    handle = Handle(ActorDiedError(), ActorDiedError())
    with pytest.raises(EngineUnavailable) as raised:
        await ServeEngine(handle).generate(REQUEST)
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
        await ServeEngine(Handle(failure)).generate(REQUEST)


async def test_what_the_replica_raised_on_purpose_arrives_as_itself() -> None:
    with pytest.raises(UnknownModel, match="not loaded") as raised:
        await ServeEngine(Handle(task_error(UnknownModel("not loaded", param="model")))).generate(REQUEST)
    assert raised.value.param == "model"


async def test_a_cancelled_call_cancels_the_replicas_work() -> None:
    handle = Handle(None)
    task = asyncio.create_task(ServeEngine(handle).generate(REQUEST))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].cancelled


async def test_a_stream_that_is_closed_cancels_the_replicas_work() -> None:
    handle = Handle(["one", "two", "three"])
    stream = ServeEngine(handle).openai("chat", {}, "r")
    assert await anext(stream) == "one"
    await stream.aclose()
    assert handle.responses[0].cancelled


async def test_a_stream_that_fails_raises_our_error() -> None:
    handle = Handle(["one", ActorDiedError()])
    stream = ServeEngine(handle).openai("chat", {}, "r")
    assert await anext(stream) == "one"
    with pytest.raises(EngineUnavailable):
        await anext(stream)


@pytest.mark.parametrize("error", [InvalidRequest("m", param="f"), EngineUnavailable("m", retry_after_s=2.5)])
def test_errors_cross_processes_whole(error: RequestError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.param, copy.retry_after_s) == (error.message, error.param, error.retry_after_s)
