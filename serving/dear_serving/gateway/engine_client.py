"""The Engine protocol over a Serve handle: calls from a gateway to its engine replicas, with retries."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from dear_serving.errors import EngineUnavailable, RequestError
from dear_serving.protocol import (
    DecodedWindow,
    Generation,
    GenerationRequest,
    OpenAIRequest,
    PermutationRequest,
)

T = TypeVar("T")

_RETRY_AFTER_S = 5.0
_WATCH_S = 1.0


class EngineClient:
    """Implements protocol.Engine. Cancelling a call cancels its work on the replica.

    If no replica runs, Serve lets a call wait. Here the call fails instead, at once or as soon as the last
    replica is gone. Ranking a window has no side effects, so a call whose replica died is retried once on
    another replica.

    Args:
        handle: the engine deployment's handle.
        count_running: returns how many replicas run now, according to Serve; may block.
    """

    def __init__(self, handle: DeploymentHandle[Any], count_running: Callable[[], int]) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)
        self._count_running = count_running
        self._down = False
        self._probed_s = -math.inf

    async def generate(self, request: GenerationRequest) -> Generation:
        """See the protocol."""
        generation: Generation = await self._call(self._handle.generate, request)
        return generation

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """See the protocol."""
        window: DecodedWindow = await self._call(self._handle.permute, request)
        return window

    async def _call(self, method: Any, request: GenerationRequest | PermutationRequest) -> Any:
        """Send a request, and retry once if its replica died."""
        try:
            return await self._send(method, request)
        except RayActorError:
            return await self._or_unavailable(self._send(method, request))

    async def _send(self, method: Any, request: GenerationRequest | PermutationRequest) -> Any:
        await self._fail_if_down()
        response = method.remote(request)
        try:
            return await self._unless_down(response)
        except (asyncio.CancelledError, EngineUnavailable):
            response.cancel()
            raise
        except RayActorError:
            raise
        except Exception as error:
            raise _as_request_error(error) from error

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        """See the protocol."""
        async with contextlib.aclosing(self._items(self._stream.permute_stream, request)) as windows:
            async for window in windows:
                yield window

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """See the protocol."""
        async with contextlib.aclosing(self._items(self._stream.openai, request)) as items:
            async for item in items:
                yield item

    async def _items(self, method: Any, *arguments: Any) -> AsyncGenerator[Any, None]:
        await self._fail_if_down()
        response = method.remote(*arguments)
        items = aiter(response)
        try:
            while True:
                yield await self._unless_down(anext(items))
        except StopAsyncIteration:
            return
        except (asyncio.CancelledError, GeneratorExit, EngineUnavailable):
            response.cancel()
            raise
        except Exception as error:
            raise _as_request_error(error) from error

    async def check_ready(self) -> None:
        """See the protocol."""
        await self._fail_if_down()
        await self._or_unavailable(self._unless_down(self._handle.check_health.remote()))

    async def metrics(self) -> str:
        """See the protocol."""
        await self._fail_if_down()
        return str(await self._or_unavailable(self._unless_down(self._handle.metrics.remote())))

    async def _fail_if_down(self) -> None:
        if self._down or self._probed_s == -math.inf:
            await self._probe()
        if self._down:
            raise _unavailable()

    async def _unless_down(self, answer: Awaitable[T]) -> T:
        """The answer, or EngineUnavailable once no replica runs; only a slow answer makes it ask Serve."""
        answering = asyncio.ensure_future(_await(answer))
        try:
            while True:
                await asyncio.wait({answering}, timeout=_WATCH_S)
                if answering.done():
                    return answering.result()
                await self._probe()
                if self._down and not answering.done():
                    raise _unavailable()
        finally:
            answering.cancel()

    async def _probe(self) -> None:
        """Ask Serve how many replicas run, at most once per _WATCH_S: it takes tens of milliseconds."""
        now_s = time.monotonic()
        if now_s - self._probed_s < _WATCH_S:
            return
        self._probed_s = now_s
        # While Serve's controller restarts, keep the last result.
        with contextlib.suppress(RayError, RayServeException):
            self._down = await asyncio.to_thread(self._count_running) == 0

    @staticmethod
    async def _or_unavailable(answer: Awaitable[T]) -> T:
        try:
            return await answer
        except Exception as error:
            raise _as_request_error(error) from error


async def _await(answer: Awaitable[T]) -> T:
    """Wraps any awaitable in a coroutine."""
    return await answer


def _unavailable() -> EngineUnavailable:
    return EngineUnavailable("no engine can answer now", retry_after_s=_RETRY_AFTER_S)


def _as_request_error(error: Exception) -> Exception:
    """A replica's own RequestError as it is; failures of the replica or of Serve as EngineUnavailable."""
    if isinstance(error, RayTaskError):
        error = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(error, RequestError):
        return error
    if isinstance(
        error, RayError | RayServeException | BackPressureError | RequestCancelledError | ConnectionError
    ):
        return _unavailable()
    return error
