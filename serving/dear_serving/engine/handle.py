"""Engine over a Serve handle: what happens between a gateway and its engine replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from dear_serving.engine.protocol import EngineRequest, OpenAIRoute
from dear_serving.errors import EngineUnavailable, RequestError
from dear_serving.types import Generation

_RETRY_AFTER_S = 5.0


class ServeEngine:
    """Implements engine.protocol.Engine. A cancelled call cancels its work on the replica.

    Ranking a window has no side effect, so a call whose replica died is sent once more, to another one.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def generate(self, request: EngineRequest) -> Generation:
        """See the protocol."""
        try:
            return await self._generate(request)
        except RayActorError:
            return await self._answered(self._generate(request))

    async def _generate(self, request: EngineRequest) -> Generation:
        response = self._handle.generate.remote(request)
        try:
            return cast("Generation", await response)
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError:
            raise
        except Exception as error:
            raise _as_request_error(error) from error

    async def openai(
        self, route: OpenAIRoute, body: dict[str, Any], request_id: str
    ) -> AsyncIterator[str | dict[str, Any]]:
        """See the protocol."""
        response = self._stream.openai.remote(route, body, request_id)
        try:
            async for item in response:
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        except Exception as error:
            raise _as_request_error(error) from error

    async def check_ready(self) -> None:
        """See the protocol."""
        await self._answered(self._handle.check_health.remote())

    async def metrics(self) -> str:
        """See the protocol."""
        return str(await self._answered(self._handle.metrics.remote()))

    @staticmethod
    async def _answered(response: Any) -> Any:
        try:
            return await response
        except Exception as error:
            raise _as_request_error(error) from error


def _as_request_error(error: Exception) -> Exception:
    """What the replica raised on purpose as itself, anything about the replica as unavailable."""
    if isinstance(error, RayTaskError):
        error = error.cause if isinstance(error.cause, Exception) else error
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RequestCancelledError):
        return EngineUnavailable("the engine dropped the request", retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, RayError | RayServeException | BackPressureError | ConnectionError):
        return EngineUnavailable("no engine can answer now", retry_after_s=_RETRY_AFTER_S)
    return error
