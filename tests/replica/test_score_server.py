"""The replica of a first stage's own model, over a vLLM client that answers as vLLM's pooling runner does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dear_serving.errors import EngineUnavailable
from dear_serving.protocol import ScoreRequest
from dear_serving.replica.kv_admission import KvAdmission

pytestmark = pytest.mark.integration

REQUEST = ScoreRequest([[1, 2], [3], [4, 5, 6]], (), None, "r", 5, None, "salt")


class Pooling:
    """vLLM's client: a score a prompt by ``score``; NaN and errors as told."""

    def __init__(self, score: Callable[[Sequence[int]], object]) -> None:
        self.score = score
        self.asked: list[tuple[Any, Any, str, int]] = []
        self.ended = 0

    async def encode(
        self, prompt: Any, params: Any, request_id: str, *, priority: int, trace_headers: object
    ) -> AsyncGenerator[Any, None]:
        import torch

        self.asked.append((prompt, params, request_id, priority))
        found = self.score(prompt["prompt_token_ids"])
        try:
            if found is None:
                await asyncio.sleep(60)
            if isinstance(found, Exception):
                raise found
            yield SimpleNamespace(outputs=SimpleNamespace(data=torch.tensor([found])))
        finally:
            self.ended += 1


def server_of(client: Pooling, max_open: int = 8) -> Any:
    from dear_serving.replica.score_server import ScoreServer  # imports Ray and vLLM

    # Not the class itself: Ray's has a destructor that wants to be awaited.
    parts = {name: getattr(ScoreServer, name) for name in ("score", "_head", "_work", "_client")}
    server: Any = type("Parts", (), parts)()
    server.engine = SimpleNamespace(_engine_client=client)
    server._tracer = None
    server._metrics = SimpleNamespace(took=lambda *seconds: None)
    server._admission = KvAdmission(max_open=max_open, blocks=1 << 40, block_size=1)
    return server


async def test_a_score_is_what_the_head_gives_and_no_activation() -> None:
    client = Pooling(lambda prompt: float(sum(prompt)))
    answer = await server_of(client).score(REQUEST)
    assert answer.scores == (3.0, 3.0, 15.0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 0)
    prompts, params, ids, priorities = zip(*client.asked, strict=True)
    assert [prompt["prompt_token_ids"] for prompt in prompts] == REQUEST.prompts
    assert {prompt["cache_salt"] for prompt in prompts} == {"salt"}
    assert {(one.task, one.use_activation) for one in params} == {("classify", False)}
    assert len(set(ids)) == 3
    assert set(priorities) == {5}


async def test_what_is_no_number_is_the_engines_failure() -> None:
    with pytest.raises(EngineUnavailable, match="no finite score") as failed:
        await server_of(Pooling(lambda prompt: math.nan)).score(REQUEST)
    assert failed.value.failed


async def test_a_dead_core_is_told_as_one() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    with pytest.raises(EngineUnavailable, match="the engine died"):
        await server_of(Pooling(lambda prompt: EngineDeadError())).score(REQUEST)


async def test_the_batch_bounds_what_is_in_the_engine_and_cancelling_ends_it() -> None:
    client = Pooling(lambda prompt: None)
    asked = asyncio.create_task(server_of(client, max_open=2).score(REQUEST))
    await asyncio.sleep(0.2)
    assert len(client.asked) == 2
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert client.ended == 2
