"""What the gateway makes of a replica's answers and failures, over handles that behave as Serve's do."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from dear_serving.errors import (
    EngineUnavailable,
    InvalidRequest,
    RequestError,
    UnknownModel,
)
from dear_serving.gateway.engine_client import EngineClient
from dear_serving.gateway.engine_replicas import ATTEMPT, EngineReplicas
from dear_serving.gateway.everyone import ask_everyone
from dear_serving.gateway.retry_budget import RetryBudget
from dear_serving.metrics import Metrics, add_up
from dear_serving.protocol import (
    Backlog,
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    ScoreRequest,
)
from dear_serving.settings import TracingSettings
from dear_serving.tracing import Tracer
from dear_serving.types import Usage
from tests.support.collector import collector

REQUEST = GenerationRequest([1, 2, 3], 8, None, "r")
CHAT = OpenAIRequest("chat", {"model": "m"}, "r", 1, 1)
WINDOW = PermutationRequest([1, 2, 3], ((10,), (11,)), (90,), 2, None, "w")
SCORES = ScoreRequest([[1, 2], [3]], (10, 11), None, "s")
ANSWER = Generation("[0]", Usage(3, 1, 0.0, 1.0))
PARTLY, WHOLE = (
    DecodedWindow((1, 0), decided, (-2.0, -1.0), Usage(3, decided, 0.0, 1.0)) for decided in (1, 2)
)

Call = Callable[[EngineClient], Coroutine[Any, Any, object]]
either_call = pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.generate(REQUEST),
        lambda engine: engine.permute(WINDOW),
        lambda engine: engine.score(SCORES),
    ],
    ids=["generate", "permute", "score"],
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

    async def get_async(self) -> object:
        return await self

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
        self.replicas = EngineReplicas()
        self.routes = True
        self.names: list[str] = []
        self.went_to: list[str | None] = []

    def options(self, **options: object) -> Handle:
        return self

    def __getattr__(self, method: str) -> Handle:
        self.method = method
        return self

    def remote(self, *args: object) -> Response:
        self.calls += 1
        self.asked.append((self.method, args))
        attempt = ATTEMPT.get()
        assert attempt is not None
        names = list(self.replicas.choosable(self.names, attempt.tried)) if self.routes else []
        if names:  # as the router does
            self.replicas.assign(attempt, names[0])
        self.went_to.append(attempt.replica)
        return self.responses[self.calls - 1]

    def broadcast(self, method: str) -> Broadcast:
        return Broadcast([Response(f'# HELP a A.\na{{replica="{name}"}} 1.0\n') for name in self.names])


class Broadcast:
    """As Serve's: the answers of all replicas, which it fails to ask where there are none."""

    def __init__(self, responses: list[Response]) -> None:
        self.responses = responses

    async def _fetch_replica_results_async(self) -> list[Response]:
        if not self.responses:
            raise DeploymentUnavailableError(DeploymentID("Engine"))
        return self.responses


NAMES = ("r1", "r2", "r3", "r4")


def engine_over(handle: Handle, running: int = 4, **options: Any) -> EngineClient:
    """An engine with so many replicas."""
    handle.names = list(NAMES[:running])
    handle.replicas.update(handle.names)
    return EngineClient(handle, handle.replicas, **options)


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


FAULTS = [
    ActorDiedError(),
    ActorUnavailableError("gone", None),
    ConnectionError("gone"),
    RuntimeError("Unexpected error (StatusCode.UNAVAILABLE): reset."),
    task_error(EngineUnavailable("the engine died and starts again", retry_after_s=3.0, failed=True)),
    task_error(EngineUnavailable("the adapter is not on this engine now", retry_after_s=1.0)),
]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda one: type(one).__name__ + str(one)[:9])


@each_fault
@either_call
async def test_what_one_replica_could_not_do_another_does(fault: Exception, call: Call) -> None:
    handle = Handle(fault, ANSWER)
    assert await call(engine_over(handle)) == ANSWER
    assert handle.went_to == ["r1", "r2"]
    (method, (first,)), (again, (second,)) = handle.asked
    assert method == again
    assert isinstance(first, GenerationRequest | PermutationRequest | ScoreRequest)
    assert isinstance(second, type(first))
    assert second.request_id != first.request_id
    assert replace(second, request_id=first.request_id) == first


@each_fault
@either_stream
async def test_a_stream_begins_again_until_its_first_item(fault: Exception, stream: Stream) -> None:
    handle = Handle([fault], ["one", "two"])
    assert [item async for item in stream(engine_over(handle))] == ["one", "two"]
    assert handle.went_to == ["r1", "r2"]


@either_call
async def test_a_third_failure_is_unavailable(call: Call) -> None:
    handle = Handle(*[ActorDiedError()] * 4)
    with pytest.raises(EngineUnavailable) as raised:
        await call(engine_over(handle))
    assert raised.value.retry_after_s is not None
    assert handle.went_to == ["r1", "r2", "r3"]


@either_call
async def test_where_no_other_replica_runs_nothing_is_tried_again(call: Call) -> None:
    handle = Handle(task_error(EngineUnavailable("the engine died", retry_after_s=3.0, failed=True)))
    with pytest.raises(EngineUnavailable, match="the engine died"):
        await call(engine_over(handle, 1))
    assert handle.calls == 1


async def test_what_is_left_of_the_deadline_goes_with_the_second_attempt() -> None:
    handle = Handle(ActorDiedError(), WHOLE)
    await engine_over(handle).permute(replace(WINDOW, deadline_s=30.0))
    (_, (first,)), (_, (second,)) = handle.asked
    assert isinstance(first, PermutationRequest)
    assert isinstance(second, PermutationRequest)
    assert first.deadline_s == 30.0
    assert second.deadline_s is not None
    assert 0 < second.deadline_s < 30.0
    handle = Handle(ActorDiedError(), ANSWER)
    await engine_over(handle).score(replace(SCORES, deadline_s=30.0))
    assert [request.deadline_s == 30.0 for _, (request,) in handle.asked] == [True, False]


async def test_retries_are_counted_and_end_with_the_budget() -> None:
    metrics = Metrics()
    handle = Handle(*[ActorDiedError(), ANSWER] * 2, task_error(EngineUnavailable("dead", failed=True)))
    engine = engine_over(handle, budget=RetryBudget(2))
    engine.report_to(metrics)
    for _ in range(2):
        assert await engine.generate(REQUEST) == ANSWER
    with pytest.raises(EngineUnavailable):
        await engine.generate(REQUEST)
    text = add_up([metrics.page()])
    assert 'dear_engine_retries_total{reason="died"} 2.0' in text
    assert 'dear_engine_retries_total{reason="refused"} 1.0' in text


async def test_retries_and_ejections_are_events_of_the_calls_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    dead = task_error(EngineUnavailable("dead", failed=True))
    handle = Handle(*[dead, ANSWER] * 3, dead)
    engine = engine_over(handle, budget=RetryBudget(3))
    header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with collector() as found:
        tracer = Tracer(TracingSettings(endpoint=found.url), "gateway")
        with tracer.begin("request", {"traceparent": header}):
            for _ in range(3):
                assert await engine.generate(REQUEST) == ANSWER
            with pytest.raises(EngineUnavailable):
                await engine.generate(REQUEST)
        tracer.close()
    calls = [span for span in found.spans if span.name == "engine call"]
    retry = ("retry", {"dear.reason": "failed", "dear.replica": "r1"})
    assert [span.events for span in calls] == [
        [retry],
        [retry],
        [retry, ("ejection", {"dear.replica": "r1"})],
        [("no retry: the budget is spent", {"dear.reason": "failed", "dear.replica": "r2"})],
    ]
    assert [span.attributes.get("dear.attempts") for span in calls] == [2, 2, 2, None]
    assert [span.is_error for span in calls] == [False, False, False, True]
    sent = {request.trace_headers["traceparent"] for _, (request,) in handle.asked}
    assert sent == {f"00-{span.trace_id}-{span.span_id}-01" for span in calls}


def test_a_fifth_of_the_calls_and_a_replicas_worth_may_be_tried_again() -> None:
    budget = RetryBudget(10)
    assert sum(budget.spend() for _ in range(100)) == 10
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == 10  # what was earned beyond that is lost
    retried = 0
    for _ in range(1000):
        budget.earn()
        retried += budget.spend()
    assert 195 <= retried <= 205


@pytest.mark.parametrize(
    "failure",
    [
        DeploymentUnavailableError("Engine"),
        BackPressureError(num_queued_requests=1, max_queued_requests=1),
    ],
    ids=lambda failure: type(failure).__name__,
)
@either_call
async def test_what_is_wrong_with_all_of_them_is_unavailable(failure: Exception, call: Call) -> None:
    handle = Handle(failure)
    with pytest.raises(EngineUnavailable):
        await call(engine_over(handle))
    assert handle.calls == 1


@either_call
async def test_a_replica_that_falls_silent_loses_its_calls_to_another(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None, ANSWER)
    answer = asyncio.create_task(call(engine_over(handle)))
    await asyncio.sleep(0.1)
    handle.replicas.heard("r2", 0)
    for _ in range(10):
        handle.replicas.unheard("r1")
    async with asyncio.timeout(5):
        assert await answer == ANSWER
    assert handle.responses[0].cancelled
    assert handle.went_to == ["r1", "r2"]


async def test_a_replica_whose_requests_others_answer_is_left_out() -> None:
    died = task_error(EngineUnavailable("dead", failed=True))
    handle = Handle(*[died, ANSWER] * 3, *[ANSWER] * 5)
    metrics = Metrics()
    engine = engine_over(handle)
    engine.report_to(metrics)
    for _ in range(8):
        assert await engine.generate(REQUEST) == ANSWER
    assert handle.went_to == ["r1", "r2"] * 3 + ["r2"] * 5
    assert "dear_engine_ejections_total 1.0" in add_up([metrics.page()])


async def test_a_request_that_fails_everywhere_leaves_no_replica_out() -> None:
    bad = task_error(EngineUnavailable("the model gives no finite probabilities for the window", failed=True))
    handle = Handle(*[bad] * 30, ANSWER)
    engine = engine_over(handle)
    for _ in range(10):
        with pytest.raises(EngineUnavailable):
            await engine.permute(WINDOW)
    assert await engine.generate(REQUEST) == ANSWER
    assert handle.went_to[-1] == "r1"


@either_call
async def test_what_the_replica_raised_on_purpose_arrives_as_itself(call: Call) -> None:
    with pytest.raises(UnknownModel, match="not loaded") as raised:
        await call(engine_over(Handle(task_error(UnknownModel("not loaded", param="model")))))
    assert raised.value.param == "model"


@either_call
async def test_a_call_that_was_answered_cancels_nothing(call: Call) -> None:
    handle = Handle(ANSWER)
    await call(engine_over(handle))
    assert not handle.responses[0].cancelled


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
    calls = [engine.generate(REQUEST), engine.permute(WINDOW), engine.check_ready()]
    for call in [*calls, anext(engine.openai(CHAT)), anext(engine.permute_stream(WINDOW))]:
        with pytest.raises(EngineUnavailable):
            await call
    assert handle.calls == 0


@either_call
async def test_calls_in_flight_fail_when_the_last_replica_is_dead(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None)
    answer = asyncio.create_task(call(engine_over(handle, 1)))
    await asyncio.sleep(0.1)
    handle.replicas.gone("r1")
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailable):
            await answer
    assert handle.responses[0].cancelled


@either_call
async def test_calls_go_on_while_the_last_replica_drains(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None)
    answer = asyncio.create_task(call(engine_over(handle, 1)))
    await asyncio.sleep(0.1)
    handle.replicas.update([])
    await asyncio.sleep(0.3)
    assert not answer.done()
    for _ in range(10):
        handle.replicas.unheard("r1")
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailable):
            await answer


@either_stream
async def test_streams_in_flight_fail_when_their_replica_is_dead(
    monkeypatch: pytest.MonkeyPatch, stream: Stream
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(["one", None])
    items = stream(engine_over(handle))
    assert await anext(items) == "one"
    handle.replicas.gone("r1")
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailable):
            await anext(items)
    assert handle.responses[0].cancelled
    assert handle.calls == 1


@either_call
async def test_a_call_that_waits_for_a_replica_fails_when_none_is_left(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None)
    handle.routes = False
    answer = asyncio.create_task(call(engine_over(handle, 1)))
    await asyncio.sleep(0.2)
    assert not answer.done()
    handle.replicas.update([])
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailable):
            await answer
    assert handle.responses[0].cancelled


@either_call
async def test_where_a_call_can_wake_an_engine_it_waits_for_that_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._WATCH_S", 0.02)
    handle = Handle(None)
    handle.routes = False
    answer = asyncio.create_task(call(engine_over(handle, 0, wakes=True, wake_s=0.5)))
    await asyncio.sleep(0.2)
    assert handle.calls == 1  # Serve learns of it
    assert not answer.done()
    async with asyncio.timeout(5):
        with pytest.raises(EngineUnavailable):
            await answer


async def test_a_replica_that_comes_back_is_used() -> None:
    handle = Handle(ANSWER)
    engine = engine_over(handle, 0)
    with pytest.raises(EngineUnavailable):
        await engine.generate(REQUEST)
    handle.names = ["r5"]
    handle.replicas.update(handle.names)
    assert await engine.generate(REQUEST) == ANSWER


async def test_ready_is_that_some_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dear_serving.gateway.engine_client._HEDGE_S", 0.1)
    handle = Handle(None, task_error(ValueError("ill")), "healthy")
    async with asyncio.timeout(5):
        await engine_over(handle).check_ready()
    assert handle.went_to == ["r1", "r2", "r3"]
    assert handle.responses[0].cancelled


async def test_not_ready_is_that_every_engine_is_ill() -> None:
    handle = Handle(*[task_error(ValueError("ill"))] * 2)
    with pytest.raises(EngineUnavailable):
        async with asyncio.timeout(5):
            await engine_over(handle, 2).check_ready()
    assert handle.calls == 2


# A deployment that may have no replica.


async def test_a_call_that_may_not_wait_wakes_an_engine_for_the_next_one() -> None:
    handle = Handle(None, ANSWER, None)
    engine = engine_over(handle, running=0, wakes=True)
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="no engine runs, one is starting") as asleep:
            await engine.generate(REQUEST)
        assert 50 < (asleep.value.retry_after_s or 0) <= 60
    await asyncio.sleep(0.05)
    assert [method for method, _ in handle.asked] == ["check_health"]
    handle.names = ["r1"]
    handle.replicas.update(handle.names)
    assert await engine.generate(REQUEST) == ANSWER
    if engine._waking is not None:
        await asyncio.wait_for(engine._waking, 10)
    handle.replicas.update([])
    with pytest.raises(EngineUnavailable) as again:
        await engine.generate(REQUEST)
    assert (again.value.retry_after_s or 0) < 10  # as long as it took


async def test_a_request_tells_what_its_gateway_has() -> None:
    handle = Handle(ANSWER)
    engine = engine_over(handle)
    engine.tell_backlog(lambda: Backlog("g", 7))
    await engine.generate(REQUEST)
    assert handle.asked == [("generate", (replace(REQUEST, backlog=Backlog("g", 7)),))]


async def test_metrics_are_those_of_all_replicas() -> None:
    assert await engine_over(Handle(), 2).metrics() == (
        '# HELP a A.\na{replica="r1"} 1.0\na{replica="r2"} 1.0\n'
    )


async def test_replicas_that_fail_or_are_late_are_left_out_of_an_answer_of_all() -> None:
    responses = [Response("one"), Response(None), Response(ConnectionError("gone")), Response("two")]
    handle = Handle()
    handle.broadcast = lambda method, *arguments: Broadcast(responses)  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        found, asked = await ask_everyone(handle, "metrics", "acme", timeout_s=0.2)
    assert (sorted(found), asked) == (["one", "two"], 4)
    assert [response.cancelled for response in responses] == [False, True, False, False]


async def test_who_asks_for_metrics_or_readiness_wakes_no_engine() -> None:
    handle = Handle()
    engine = engine_over(handle, running=0, wakes=True, wake_s=30.0)
    await engine.check_ready()  # for whom a request can wake one
    assert await engine.metrics() == ""
    assert handle.asked == []
