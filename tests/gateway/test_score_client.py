"""The first stage's own engines, over handles that behave as Serve's do."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError

from dear_serving.errors import EngineUnavailable
from dear_serving.gateway.score_client import ScoreClient
from dear_serving.protocol import PromptScores, ScoreRequest
from dear_serving.types import Usage
from tests.gateway.test_engine_client import Handle, Response, task_error

REQUEST = ScoreRequest([[1, 2], [3]], (), None, "s", deadline_s=30.0)
ANSWER = PromptScores((0.5, -1.0), Usage(3, 0, 0.0, 1.0))


class ServesOwn(Handle):
    """A handle whose router is Serve's own, and knows of no attempts."""

    def remote(self, *args: object) -> Response:
        self.calls += 1
        self.asked.append((self.method, args))
        return self.responses[self.calls - 1]


def client(handle: Handle, patience_s: float = 60.0) -> ScoreClient:
    return ScoreClient(handle, patience_s)


async def test_an_answer_is_given_on() -> None:
    handle = ServesOwn(ANSWER)
    assert await client(handle).score(REQUEST) == ANSWER
    assert handle.asked == [("score", (REQUEST,))]


@pytest.mark.parametrize(
    "fault", [ActorDiedError(), task_error(EngineUnavailable("the engine died", failed=True))]
)
async def test_what_one_replica_could_not_do_is_asked_again(fault: Exception) -> None:
    handle = ServesOwn(fault, fault, ANSWER)
    assert await client(handle).score(REQUEST) == ANSWER
    requests = [request for _, (request,) in handle.asked]
    assert len({request.request_id for request in requests}) == 3
    assert requests[-1].deadline_s < 30.0


async def test_three_failures_are_the_callers() -> None:
    handle = ServesOwn(*[ActorDiedError()] * 3, ANSWER)
    with pytest.raises(EngineUnavailable):
        await client(handle).score(REQUEST)
    assert handle.calls == 3


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever() -> None:
    handle = ServesOwn(None)
    with pytest.raises(EngineUnavailable):
        await client(handle, patience_s=0.05).score(REQUEST)
    assert handle.responses[0].cancelled


async def test_cancelling_cancels_the_replicas_work() -> None:
    handle = ServesOwn(None)
    asked = asyncio.create_task(client(handle).score(REQUEST))
    await asyncio.sleep(0.05)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert handle.responses[0].cancelled
