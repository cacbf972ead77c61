"""What the gateway makes of a replica's answers and failures, over handles that behave as Serve's do."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from dear_serving.errors import EngineUnavailable, InvalidRequest, RequestError, UnknownModel
from dear_serving.gateway.engine_client import EngineClient
from dear_serving.protocol import (
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
)
from dear_serving.types import Usage

REQUEST = GenerationRequest([1, 2, 3], 8, None, "r")
CHAT = OpenAIRequest("chat", {"model": "m"}, "r", 1, 1)
WINDOW = PermutationRequest([1, 2, 3], ((10,), (11,)), (90,), 2, None, "w")
ANSWER = Generation("[0]", Usage(3, 1, 0.0, 1.0))
PARTLY, WHOLE = (
    DecodedWindow((1, 0), decided, (-2.0, -1.0), Usage(3, decided, 0.0, 1.0)) for decided in (1, 2)
)

Call = Callable[[EngineClient], Coroutine[Any, Any, object]]
either_call = pytest.mark.parametrize(
    "call",
    [lambda engine: engine.generate(REQUEST), lambda engine: engine.permute(WINDOW)],
    ids=["generate", "permute"],
)
Stream = Callable[[EngineClient], AsyncIterator[object]]
either_stream = pytest.mark.parametrize(
    "stream",
    [lambda engine: engine.openai(CHAT), lambda engine: engine.permute_stream(WINDOW)],
    ids=["openai", "permute_stream"],
)


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
            if item is None:
                await asyncio.sleep(60)
            if isinstance(item, Exception):
                raise item
            await asyncio.sleep(0)
            yield item


class Handle:
    """Gives the listed outcomes, one a call, to whatever method is called."""

    def __init__(self, *outcomes: object) -> None:
        self.responses = [Response(outcome) for outcome in outcomes]
        self.calls = 0
        self.asked: list[tuple[str, tuple[object, ...]]] = []
        self.method = ""

    def options(self, **options: object) -> Handle:
        return self

    def __getattr__(self, method: str) -> Handle:
        self.method = method
        return self

    def remote(self, *args: object) -> Response:
        self.calls += 1
        self.asked.append((self.method, args))
        return self.responses[self.calls - 1]


def engine_over(handle: Handle, *running: int) -> EngineClient:
    """An engine whose replicas are counted as ``running``, one count a look, the last for ever."""
    counts = list(running or (1,))
    return EngineClient(handle, lambda: counts.pop(0) if len(counts) > 1 else counts[0])


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("generate", "traceback", cause)


async def test_calls_reach_the_replicas_method_of_their_name() -> None:
    handle = Handle(ANSWER, WHOLE, [PARTLY, WHOLE], ["item"])
    engine = engine_over(handle)
    assert await engine.generate(REQUEST) == ANSWER
    assert await engine.permute(WINDOW) == WHOLE
    assert [window async for window in engine.permute_stream(WINDOW)] == [PARTLY, WHOLE]
    assert [item async for item in engine.openai(CHAT)] == ["item"]
    assert handle.asked == [
        ("generate", (REQUEST,)),
        ("permute", (WINDOW,)),
        ("permute_stream", (WINDOW,)),
        ("openai", (CHAT,)),
    ]


@either_call
async def test_a_call_whose_replica_died_is_sent_once_more(call: Call) -> None:
    handle = Handle(ActorDiedError(), ANSWER)
    assert await call(engine_over(handle)) == ANSWER
    assert handle.calls == 2
    assert handle.asked[0] == handle.asked[1]


@either_call
async def test_a_second_death_is_unavailable(call: Call) -> None:
    handle = Handle(ActorDiedError(), ActorDiedError())
    with pytest.raises(EngineUnavailable) as raised:
        await call(engine_over(handle))
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
@either_call
async def test_what_is_wrong_with_the_replica_is_unavailable(failure: Exception, call: Call) -> None:
    handle = Handle(failure)
    with pytest.raises(EngineUnavailable):
        await call(engine_over(handle))
    assert handle.calls == 1  # only a death is worth another try


@either_call
async def test_what_the_replica_raised_on_purpose_arrives_as_itself(call: Call) -> None:
    with pytest.raises(UnknownModel, match="not loaded") as raised:
        await call(engine_over(Handle(task_error(UnknownModel("not loaded", param="model")))))
    assert raised.value.param == "model"


@either_call
async def test_a_cancelled_call_cancels_the_replicas_work(call: Call) -> None:
    handle = Handle(None)
    task = asyncio.create_task(call(engine_over(handle)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].cancelled


@either_stream
async def test_a_stream_that_is_closed_cancels_the_replicas_work(stream: Stream) -> None:
    handle = Handle(["one", "two", "three"])
    items: Any = stream(engine_over(handle))
    assert await anext(items) == "one"
    await items.aclose()
    assert handle.responses[0].cancelled


@either_stream
async def test_a_stream_that_ran_to_its_end_cancels_nothing(stream: Stream) -> None:
    handle = Handle(["one", "two"])
    assert [item async for item in stream(engine_over(handle))] == ["one", "two"]
    assert not handle.responses[0].cancelled


@either_stream
async def test_a_caller_cancelled_between_two_items_cancels_the_replicas_work(stream: Stream) -> None:
    handle = Handle(["one", None])

    async def read() -> None:
        async for _ in stream(engine_over(handle)):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].cancelled


@either_stream
@pytest.mark.parametrize("failure", [ActorDiedError(), DeploymentUnavailableError("Engine")], ids=type)
async def test_a_stream_that_fails_raises_our_error_and_is_not_begun_again(
    stream: Stream, failure: Exception
) -> None:
    handle = Handle(["one", failure], ["one", "two"])
    items = stream(engine_over(handle))
    assert await anext(items) == "one"
    with pytest.raises(EngineUnavailable):
        await anext(items)
    assert handle.calls == 1


@either_stream
async def test_what_a_stream_raised_on_purpose_arrives_as_itself(stream: Stream) -> None:
    handle = Handle([task_error(InvalidRequest("no", param="messages"))])
    with pytest.raises(InvalidRequest) as raised:
        await anext(stream(engine_over(handle)))
    assert raised.value.param == "messages"


@pytest.mark.parametrize("error", [InvalidRequest("m", param="f"), EngineUnavailable("m", retry_after_s=2.5)])
def test_errors_cross_processes_whole(error: RequestError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.param, copy.retry_after_s) == (error.message, error.param, error.retry_after_s)


async def test_without_a_running_replica_calls_fail_instead_of_waiting() -> None:
    handle = Handle(ANSWER)
    engine = engine_over(handle, 0)
    calls = [engine.generate(REQUEST), engine.permute(WINDOW), engine.check_ready(), engine.metrics()]
    for call in [*calls, anext(engine.openai(CHAT)), anext(engine.permute_stream(WINDOW))]:
        with pytest.raises(EngineUnavailable):
            await call
    assert handle.calls == 0


@either_call
async def test_calls_in_flight_fail_when_the_last_replica_is_gone(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None)
    async with asyncio.timeout(2):
        with pytest.raises(EngineUnavailable):
            await call(engine_over(handle, 1, 1, 0))
    assert handle.responses[0].cancelled


@either_stream
async def test_streams_in_flight_fail_when_the_last_replica_is_gone(
    monkeypatch: pytest.MonkeyPatch, stream: Stream
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(["one", None])
    items = stream(engine_over(handle, 1, 1, 0))
    assert await anext(items) == "one"
    async with asyncio.timeout(2):
        with pytest.raises(EngineUnavailable):
            await anext(items)
    assert handle.responses[0].cancelled


class Looks:
    """Counts how often Serve is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return 1


async def test_serve_is_not_asked_about_calls_that_are_answered_soon() -> None:
    looks = Looks()
    engine = EngineClient(Handle(*[ANSWER] * 50), looks)
    for _ in range(50):
        await engine.generate(REQUEST)
    assert looks.count == 1


async def test_serve_is_asked_once_for_all_calls_that_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.1)
    looks = Looks()
    engine = EngineClient(Handle(*[None] * 20), looks)
    tasks = [asyncio.create_task(engine.generate(REQUEST)) for _ in range(20)]
    await asyncio.sleep(0.45)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert 2 <= looks.count <= 5


async def test_a_replica_that_comes_back_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    engine = engine_over(Handle(ANSWER), 0, 1)
    with pytest.raises(EngineUnavailable):
        await engine.generate(REQUEST)
    await asyncio.sleep(0.2)
    assert await engine.generate(REQUEST) == ANSWER


async def test_what_was_known_stays_while_serves_controller_restarts() -> None:
    def fail() -> int:
        raise RayActorError

    assert await EngineClient(Handle(ANSWER), fail).generate(REQUEST) == ANSWER
