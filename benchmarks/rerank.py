"""One call of /v2/rerank, and what its answer says about time and tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Answer:
    """An order (indices, best first, as many as asked for) and where its time went, milliseconds.

    ``queue_ms`` and ``engine_ms`` are the engine's own (the slowest window of each round, added up);
    ``wall_ms`` is what the caller waited. ``strategy`` is the one that ranked, never ``auto``.
    """

    order: tuple[int, ...]
    wall_ms: float
    queue_ms: float
    engine_ms: float
    prompt_tokens: int
    completion_tokens: int
    windows: int
    strategy: str

    @property
    def rest_ms(self) -> float:
        """What the client, the gateway and Serve added.

        Too small where windows ran at once: the slowest in the queue need not be the slowest in the engine.
        """
        return self.wall_ms - self.queue_ms - self.engine_ms


async def rerank(
    client: httpx.AsyncClient,
    model: str,
    workload: Workload,
    options: Mapping[str, Any],
    top_n: int | None = None,
) -> Answer:
    """Rank one list; ``options`` is the request's ``dear`` object.

    Raises:
        httpx.HTTPStatusError: the server refused.
    """
    body = {
        "model": model,
        "query": workload.query,
        "documents": workload.passages,
        "top_n": top_n,
        "dear": options,
    }
    started_s = time.perf_counter()
    response = await client.post("/v2/rerank", json=body)
    wall_ms = (time.perf_counter() - started_s) * 1e3
    response.raise_for_status()
    return read_answer(response.json(), wall_ms)


def read_answer(reply: Mapping[str, Any], wall_ms: float) -> Answer:
    """The answer in a reply of /v2/rerank."""
    dear, usage = reply["meta"]["dear"], reply["usage"]
    return Answer(
        order=tuple(result["index"] for result in reply["results"]),
        wall_ms=wall_ms,
        queue_ms=dear["queue_ms"],
        engine_ms=dear["engine_ms"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        windows=dear["windows"],
        strategy=dear["strategy"],
    )
