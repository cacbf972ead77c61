"""What is compared, each behind one call: rank these lists, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx

from benchmarks.baselines.client_ranker import rank_by_completion
from benchmarks.baselines.peft_pipeline import PeftPipeline, Variant
from benchmarks.baselines.ranking import Ranking, Run
from benchmarks.baselines.vllm_server import VllmServer
from benchmarks.load import closed_loop, http_client
from benchmarks.rerank import rerank
from benchmarks.server import Server
from benchmarks.workloads import Workload


class System(Protocol):
    """One side of the comparison."""

    @property
    def name(self) -> str:
        """In tables and plots."""
        ...

    @property
    def pid(self) -> int:
        """Of the process that all its work descends from."""
        ...

    def rank(self, workloads: Sequence[Workload], concurrency: int) -> Run:
        """Rank the lists, ``concurrency`` callers at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    """Our server over POST /v2/rerank."""

    name: str
    server: Server
    model: str
    scoring: str

    @property
    def pid(self) -> int:
        """See System."""
        return self.server.process.pid

    def rank(self, workloads: Sequence[Workload], concurrency: int) -> Run:
        """See System."""

        async def send(http: httpx.AsyncClient, one: Workload) -> Ranking:
            answer = await rerank(http, self.model, one, {"scoring": self.scoring})
            return Ranking(
                positions=answer.order,
                decided=len(answer.order),
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                latency_s=answer.wall_ms / 1e3,
            )

        return _load(self.server.url, send, workloads, concurrency)


@dataclass(frozen=True, slots=True)
class VllmWithClient:
    """vLLM's own server and a client that ranks over /v1/completions."""

    name: str
    server: VllmServer
    model: str

    @property
    def pid(self) -> int:
        """See System."""
        return self.server.pid

    def rank(self, workloads: Sequence[Workload], concurrency: int) -> Run:
        """See System."""

        async def send(http: httpx.AsyncClient, one: Workload) -> Ranking:
            return await rank_by_completion(http, self.model, one.query, one.passages)

        return _load(self.server.url, send, workloads, concurrency)


@dataclass(frozen=True, slots=True)
class Peft:
    """The card's pipeline, one list after another whatever the concurrency."""

    name: str
    pipeline: PeftPipeline
    variant: Variant

    @property
    def pid(self) -> int:
        """See System."""
        return self.pipeline.pid

    def rank(self, workloads: Sequence[Workload], concurrency: int) -> Run:
        """See System."""
        return self.pipeline.rank(self.variant, workloads)


class _Send(Protocol):
    async def __call__(self, http: httpx.AsyncClient, one: Workload, /) -> Ranking: ...


def _load(url: str, send: _Send, workloads: Sequence[Workload], concurrency: int) -> Run:
    async def measure() -> Run:
        async with http_client(url) as http:
            load = await closed_loop(
                lambda number: send(http, workloads[number]), concurrency, len(workloads)
            )
        return Run(load.replies, load.wall_s)

    return asyncio.run(measure())
