"""The first stage's own engines over a Serve handle."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray.serve.handle import DeploymentHandle

from dear_serving.gateway.engine_client import again, unavailable, understood
from dear_serving.gateway.everyone import ask_everyone
from dear_serving.metrics import join
from dear_serving.protocol import PromptScores, ScoreRequest

_ATTEMPTS = 3


class ScoreClient:
    """The part of protocol.Engine that scores, by the replicas of a deployment of its own.

    Serve chooses the replica. A call whose replica died or failed is made again, three times at most in all;
    one that nobody answers for ``patience_s`` seconds fails. Cancelling a call cancels its work.
    """

    def __init__(self, handle: DeploymentHandle[Any], patience_s: float) -> None:
        self._handle = handle
        self._patience_s = patience_s

    async def score(self, request: ScoreRequest) -> PromptScores:
        """See the protocol."""
        began_s = time.monotonic()
        for number in range(1, _ATTEMPTS + 1):
            try:
                return await self._score(*again(request, number, time.monotonic() - began_s))
            except TimeoutError:
                raise unavailable() from None
            except Exception as error:
                found, reason = understood(error)
                if reason is None or number == _ATTEMPTS:
                    raise found from error
        raise unavailable()

    async def _score(self, request: Any) -> PromptScores:
        response = self._handle.score.remote(request)
        try:
            scores: PromptScores = await asyncio.wait_for(response, self._patience_s)
            return scores
        finally:
            response.cancel()

    async def metrics(self) -> str:
        """The engines' own metrics, of all that answer in time."""
        return await asyncio.to_thread(join, (await ask_everyone(self._handle, "metrics")).found)
