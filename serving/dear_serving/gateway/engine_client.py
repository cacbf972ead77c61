"""The Engine protocol over a Serve handle: calls from a gateway to its engine replicas, with retries."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import grpc
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from dear_serving import tracing
from dear_serving.errors import EngineUnavailable, RequestError
from dear_serving.gateway.engine_replicas import ATTEMPT, Attempt, EngineReplicas, Seen, engine_replicas_of
from dear_serving.gateway.everyone import ask_everyone
from dear_serving.gateway.retry_budget import RetryBudget
from dear_serving.metrics import Metrics, join
from dear_serving.protocol import (
    Backlog,
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
    PromptScores,
    ScoreRequest,
)

T = TypeVar("T")

_Request = GenerationRequest | PermutationRequest | ScoreRequest | OpenAIRequest

_ATTEMPTS = 3
_PAUSE_S = 0.05
_RETRY_AFTER_S = 5.0
_WATCH_S = 1.0
_TOLD_S = 10.0
_HEDGE_S, _MOST_ASKED = 1.0, 8
_START_S = 60.0  # of a replica, until one was measured


class EngineClient:
    """Implements protocol.Engine over a deployment that answers it, or a part of it. Cancelling a call
    cancels its work on the replica.

    Nothing that an engine does has side effects. So a call whose replica died, hangs or says that it cannot
    answer is sent to another replica, three times at most and within ``budget``; a stream until its first
    item. Later, its failure is the caller's.

    If no replica runs, Serve lets a call wait. Here the call fails instead, at once or as soon as the last
    replica is gone.

    Args:
        handle: the engine deployment's handle.
        replicas: what this process knows of the replicas; None: what their router finds out.
        budget: bounds what is tried again.
        wakes: whether a call makes Serve start a replica where none runs.
        wake_s: how long a call then waits for it.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        replicas: EngineReplicas | None = None,
        *,
        budget: RetryBudget | None = None,
        wakes: bool = False,
        wake_s: float = 0.0,
    ) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)
        self._replicas = replicas or engine_replicas_of(handle.deployment_name)
        self._budget = budget or RetryBudget(512)
        self._wakes = wakes
        self._wake_s = wake_s if wakes else 0.0
        self._waking: asyncio.Task[None] | None = None
        self._waking_since_s = 0.0
        self._start_s = _START_S
        self._backlog: Callable[[], Backlog | None] = lambda: None
        self._on_retry: Callable[[str], None] = lambda reason: None

    def report_to(self, metrics: Metrics) -> None:
        """Count retries by reason (died, silent, failed, unavailable; refused where the budget is spent), and
        replicas that are left out."""
        self._on_retry = metrics.count_retry
        self._replicas.on_ejection = metrics.ejections.inc

    def tell_backlog(self, backlog: Callable[[], Backlog]) -> None:
        """Send a gateway's backlog with every request, for autoscaling."""
        self._backlog = backlog

    @property
    def running(self) -> int | None:
        """How many replicas run; None: not known yet."""
        return self._replicas.running

    def seen(self) -> Mapping[str, Seen]:
        """What this gateway sees of each replica."""
        return self._replicas.seen()

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol."""
        generation: Generation = await self._first(self._handle.generate, request)
        return generation

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        window: DecodedWindow = await self._first(self._handle.permute, request)
        return window

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        async with contextlib.aclosing(self._items(self._stream.permute_stream, request, aiter)) as windows:
            async for window in windows:
                yield window

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol."""
        scores: PromptScores = await self._first(self._handle.score, request)
        return scores

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        async with contextlib.aclosing(self._items(self._stream.openai, request, aiter)) as items:
            async for item in items:
                yield item

    async def metrics(self) -> str:
        """See the protocol."""
        return await asyncio.to_thread(join, (await ask_everyone(self._handle, "metrics")).found)

    async def check_ready(self) -> None:
        """See the protocol. Any replica will do: while one does not answer, the next is asked as well.

        Where a request wakes one, none is needed.
        """
        if self._wakes and self._replicas.running == 0:
            return
        waiting: set[asyncio.Task[Any]] = set()
        tried: set[str] = set()
        try:
            for _ in range(_MOST_ASKED):
                waiting.add(asyncio.create_task(self._first(self._handle.check_health, None, tried)))
                while waiting:
                    pause_s = _HEDGE_S if self._replicas.others(tried) else None
                    done, waiting = await asyncio.wait(
                        waiting, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED
                    )
                    if any(one.exception() is None for one in done):
                        return
                    if self._replicas.others(tried):
                        break
                if not self._replicas.others(tried):
                    break
            raise unavailable()
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _first(self, method: Any, request: _Request | None, tried: set[str] | None = None) -> Any:
        """A call's only item."""
        (item,) = [one async for one in self._items(method, request, _alone, tried)]
        return item

    async def _items(
        self,
        method: Any,
        request: _Request | None,
        items_of: Callable[[Any], AsyncIterator[Any]],
        tried: set[str] | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The items of a call, from the first replica that gives one; ``tried`` gets all that are asked."""
        tried = set() if tried is None else tried
        suspects: list[str] = []
        began_s = time.monotonic()
        self._budget.earn()
        call = tracing.NO_SPAN if request is None else tracing.span("engine call", "client")
        if request is not None:
            request = replace(request, backlog=self._backlog(), trace_headers=call.headers)
        try:
            for number in range(1, _ATTEMPTS + 1):
                self._fail_if_down(wakes=request is not None)
                attempt = Attempt(tried)
                token = ATTEMPT.set(attempt)
                try:
                    response = method.remote(*again(request, number, time.monotonic() - began_s))
                finally:
                    ATTEMPT.reset(token)
                has_begun = False
                items = items_of(response)
                try:
                    while True:
                        item = await self._unless_lost(anext(items), attempt)
                        if not has_begun:
                            has_begun = True
                            call.set(replica=attempt.replica, attempts=number)
                            self._judge(attempt, suspects, call)
                        yield item
                except StopAsyncIteration:
                    return
                except (asyncio.CancelledError, GeneratorExit):
                    response.cancel()
                    raise
                except Exception as error:
                    if isinstance(error, _Lost | _Down):
                        response.cancel()
                    found, reason = understood(error)
                    if has_begun or number == _ATTEMPTS or not self._may_repeat(attempt, reason, call):
                        raise found from error
                    if attempt.replica is not None and reason != "unavailable":
                        suspects.append(attempt.replica)
                finally:
                    self._replicas.finish(attempt)
                await asyncio.sleep(_PAUSE_S * number * random.random())
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.end()

    def _judge(self, attempt: Attempt, suspects: list[str], call: tracing.NoSpan) -> None:
        """A replica answered: what failed before was the fault of those that failed."""
        self._replicas.succeeded(attempt.replica)
        for suspect in suspects:
            if self._replicas.failed(suspect):
                call.event("ejection", replica=suspect)

    def _may_repeat(self, attempt: Attempt, reason: str | None, call: tracing.NoSpan) -> bool:
        if reason is None or attempt.replica is None or not self._replicas.others(attempt.tried):
            return False
        is_left = self._budget.spend()
        self._on_retry(reason if is_left else "refused")
        event = "retry" if is_left else "no retry: the budget is spent"
        call.event(event, reason=reason, replica=attempt.replica)
        return is_left

    def _fail_if_down(self, *, wakes: bool) -> None:
        """Fail a call where no replica runs and it may not wait for one. Probes wake none."""
        if self._replicas.running != 0 or (wakes and self._wake_s):
            return
        if not self._wakes or not wakes:
            raise unavailable()
        if self._waking is None:
            self._waking_since_s = time.monotonic()
            self._waking = asyncio.create_task(self._wake())
        left_s = self._start_s - (time.monotonic() - self._waking_since_s)
        raise EngineUnavailable("no engine runs, one is starting", retry_after_s=max(1.0, left_s))

    async def _wake(self) -> None:
        """Have Serve start a replica, with a call that waits for one; and measure how long it takes."""
        ATTEMPT.set(Attempt(set()))  # in this task
        calling = asyncio.ensure_future(_result(self._handle.check_health.remote()))
        try:
            while self._replicas.running == 0 and not calling.done():
                await asyncio.wait({calling}, timeout=_WATCH_S)
            if self._replicas.running:
                self._start_s = time.monotonic() - self._waking_since_s
        finally:
            calling.cancel()
            self._waking = None

    async def _unless_lost(self, answer: Awaitable[T], attempt: Attempt) -> T:
        """The answer.

        Raises:
            EngineUnavailable: none runs that could answer.
            _Lost: the replica is dead or silent.
        """
        answering = asyncio.ensure_future(answer)
        began_s = time.monotonic()
        try:
            while True:
                await asyncio.wait({answering}, timeout=_WATCH_S)
                if answering.done():
                    return answering.result()
                if self._replicas.is_lost(attempt):
                    raise _Lost
                patience_s = {None: _TOLD_S, 0: self._wake_s}.get(self._replicas.running)
                is_waiting = attempt.replica is None and patience_s is not None
                if is_waiting and time.monotonic() - began_s > (patience_s or 0.0):
                    raise _Down
        finally:
            answering.cancel()


class _Lost(Exception):
    """The replica that has the call is dead or does not answer."""


class _Down(Exception):
    """No replica runs."""


async def _result(response: Any) -> None:
    with contextlib.suppress(Exception):  # what it says is of no interest
        await response


async def _alone(response: Any) -> AsyncGenerator[Any, None]:
    yield await response


def again(request: _Request | None, number: int, passed_s: float) -> tuple[_Request, ...]:
    """The arguments of an attempt: later ones have an id of their own, and less time."""
    if request is None:
        return ()
    if number == 1:
        return (request,)
    request = replace(request, request_id=f"{request.request_id}-again{number - 1}")
    if isinstance(request, PermutationRequest | ScoreRequest) and request.deadline_s is not None:
        request = replace(request, deadline_s=max(0.0, request.deadline_s - passed_s))
    return (request,)


def unavailable() -> EngineUnavailable:
    """What a caller is told where no engine can answer."""
    return EngineUnavailable("no engine can answer now", retry_after_s=_RETRY_AFTER_S)


def understood(error: Exception) -> tuple[Exception, str | None]:
    """What a caller is told, and why another replica may do better; None where it would not.

    A replica's own RequestError stays as it is; failures of the replica or of Serve are EngineUnavailable.
    """
    if isinstance(error, RayTaskError):
        error = error.cause if isinstance(error.cause, Exception) else error
    elif isinstance(error, RuntimeError) and str(error).startswith("Unexpected error ("):
        return unavailable(), "died"  # Ray's words for a stream whose replica died before it accepted
    if isinstance(error, EngineUnavailable):
        return error, "failed" if error.failed else "unavailable"
    if isinstance(error, RequestError):
        return error, None
    if isinstance(error, _Lost):
        return unavailable(), "silent"
    if isinstance(error, RayActorError | grpc.RpcError | ConnectionError):
        return unavailable(), "died"
    if isinstance(error, _Down | RayError | RayServeException | BackPressureError | RequestCancelledError):
        return unavailable(), None
    return error, None
