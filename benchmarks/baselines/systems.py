"""What is compared, each behind one call: rank these lists, so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.baselines.card import answer_tokens, card_prompt, card_ranking
from benchmarks.baselines.peft_pipeline import PeftPipeline, Variant
from benchmarks.baselines.ranking import Ranking, Run
from benchmarks.baselines.vllm_server import VllmServer
from benchmarks.completions import Completions
from benchmarks.load import Load, closed_loop, reranks
from benchmarks.server import Server
from dear_client.options import Scoring
from dear_tools.load.lists import List
from dear_tools.load.sender import Sender


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

    def rank(self, lists: Sequence[List], concurrency: int) -> Run:
        """Rank the lists, ``concurrency`` callers at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    """Our server over POST /v2/rerank."""

    name: str
    server: Server
    model: str
    scoring: Scoring

    @property
    def pid(self) -> int:
        """See System."""
        return self.server.process.pid

    def rank(self, lists: Sequence[List], concurrency: int) -> Run:
        """See System."""

        orders: dict[List, tuple[int, ...]] = {}
        sender = reranks(
            self.server.url,
            {"scoring": self.scoring},
            lambda asked, ranking: orders.update({asked: ranking.order}),
        )
        load = asyncio.run(_load(sender, lists, concurrency, self.model))
        return _run(load, [(orders[one], len(orders[one])) for one in lists])


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

    def rank(self, lists: Sequence[List], concurrency: int) -> Run:
        """See System."""

        read: dict[List, tuple[tuple[int, ...], int]] = {}

        def keep(asked: List, text: str) -> None:
            positions, decided = card_ranking(text, len(asked.passages))
            read[asked] = tuple(positions), decided

        sender = Completions(self.server.url, _card_body, keep)
        load = asyncio.run(_load(sender, lists, concurrency, self.model))
        return _run(load, [read[one] for one in lists])


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

    def rank(self, lists: Sequence[List], concurrency: int) -> Run:
        """See System."""
        return self.pipeline.rank(self.variant, lists)


def _card_body(one: List) -> dict[str, Any]:
    """The card's prompt, answered with free greedy text."""
    return {
        "prompt": card_prompt(one.query, one.passages),
        "max_tokens": answer_tokens(len(one.passages)),
    }


async def _load(sender: Sender | Completions, lists: Sequence[List], concurrency: int, model: str) -> Load:
    async with sender:
        return await closed_loop(sender, lists, concurrency, [model])


def _run(load: Load, orders: Sequence[tuple[tuple[int, ...], int]]) -> Run:
    """The lists' orders, each with how many of its places were decided, and what they took."""
    return Run(
        tuple(
            Ranking(positions, decided, record.prompt_tokens, record.completion_tokens, record.service_s)
            for record, (positions, decided) in zip(load.records, orders, strict=True)
        ),
        load.wall_s,
    )
