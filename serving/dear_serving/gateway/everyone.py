"""Asks all running replicas of a deployment the same."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

ANSWER_S = 3.0
"""Less than what a Prometheus waits for a page, ten seconds by default."""


class Answers(NamedTuple):
    """What was answered in time, and how many were asked."""

    found: list[Any]
    asked: int


async def ask_everyone(
    handle: DeploymentHandle[Any], method: str, *arguments: Any, timeout_s: float = ANSWER_S
) -> Answers:
    """Call a method of every replica that Serve's router knows of, without Serve's controller and Ray's head.

    Replicas that fail, or do not answer within ``timeout_s`` seconds, are left out.
    """
    ends_s = asyncio.get_running_loop().time() + timeout_s
    try:
        async with asyncio.timeout_at(ends_s):
            # As results_async, which gives nothing where one replica does not answer.
            responses = await handle.broadcast(method, *arguments)._fetch_replica_results_async()
    except (TimeoutError, RayServeException):  # none runs, or none is known yet
        return Answers([], 0)
    asking = [asyncio.ensure_future(one.get_async()) for one in responses]
    done, late = await asyncio.wait(asking, timeout=ends_s - asyncio.get_running_loop().time())
    for one, response in zip(asking, responses, strict=True):
        if one in late:
            one.cancel()
            response.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    answered = [one for one in asking if one in done and one.exception() is None]
    return Answers([one.result() for one in answered], len(asking))
