"""Who puts candidates into an order: a server, or an order that is known beforehand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from dear_client import AsyncClient, ClientError, Ranking, RerankOptions
from dear_tools.evaluation.collection import Topic
from dear_tools.evaluation.results import QueryResult
from dear_tools.evaluation.trec import Qrels, Run
from dear_tools.exits import ToolError
from dear_tools.fatal import is_fatal
from dear_tools.wording import named


class Ranker(Protocol):
    """Ranks topics."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything about it that decides its answers, as JSON has it."""

    def rank(self, topics: Sequence[Topic]) -> AsyncGenerator[QueryResult, None]:
        """An answer a topic, in any order, each as soon as it is there.

        Raises:
            ToolError: nothing will come of it, so that the rest is not worth trying.
        """


@dataclass(frozen=True, slots=True)
class FixedRanker:
    """Answers with orders that are known.

    Args:
        name: and ``detail``: what decides them.
        order: a topic's document ids, best first.
    """

    name: str
    order: Callable[[Topic], Sequence[str]]
    detail: str | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its name and what its orders come from."""
        return {"ranker": self.name, "ranker_digest": self.detail}

    async def rank(self, topics: Sequence[Topic]) -> AsyncGenerator[QueryResult, None]:
        """The orders, with places counted from the end as scores."""
        orders = [self.order(topic) for topic in topics]  # what fails, fails before the first answer
        for topic, order in zip(topics, orders, strict=True):
            ranked = tuple((one, float(len(order) - index)) for index, one in enumerate(order))
            yield QueryResult(query=topic.id, ranked=ranked)


def by_judgements(qrels: Qrels) -> Callable[[Topic], Sequence[str]]:
    """The best order that candidates allow: by grade, unjudged as 0, ties as the first stage has them."""

    def order(topic: Topic) -> Sequence[str]:
        grades = qrels.get(topic.id, {})
        return sorted(topic.order, key=lambda document: -grades.get(document, 0))

    return order


def by_run(run: Run, name: str) -> Callable[[Topic], Sequence[str]]:
    """The orders of a run over the same candidates; those it leaves out follow as the first stage has them.

    Raises (when an order is asked for):
        ToolError: the run has no order for a topic, or one of other documents.
    """

    def order(topic: Topic) -> Sequence[str]:
        if topic.id not in run.orders:
            raise ToolError(f"{name} has no query {topic.id}")
        found = run.orders[topic.id]
        if strange := [document for document in found if document not in set(topic.order)]:
            raise ToolError(
                f"{name} ranks documents of query {topic.id} that are no candidates: {named(strange)}; "
                "to compare any two runs, give one of them with --against"
            )
        return found

    return order


@dataclass(frozen=True, slots=True)
class ServerRanker:
    """Asks a server.

    A first answer of a kind that will not change (no connection, a key that is refused, no such model) ends
    the evaluation; so do as many of them in a row as run at the same time.

    Args:
        connect: makes a client; called on the event loop, once a ``rank``.
        options: of every request.
        concurrency: requests at a time.
    """

    connect: Callable[[], AbstractAsyncContextManager[AsyncClient]]
    options: RerankOptions
    concurrency: int = 8

    @property
    def settings(self) -> Mapping[str, Any]:
        """The options that are set; not the server's address, which decides nothing."""
        return {
            "ranker": "server",
            **{name: value for name, value in self.options.items() if value is not None},
        }

    async def rank(self, topics: Sequence[Topic]) -> AsyncGenerator[QueryResult, None]:
        """What the server answers, as it answers."""
        gate = asyncio.Semaphore(self.concurrency)
        fatal = 0
        is_working = False
        try:
            opened = self.connect()
        except ClientError as error:
            raise ToolError(error.message) from None
        async with opened as client:

            async def ask(topic: Topic) -> tuple[QueryResult, ClientError | None]:
                async with gate:
                    return await self._ask(client, topic)

            tasks = [asyncio.create_task(ask(topic)) for topic in topics]
            try:
                for finished in asyncio.as_completed(tasks):
                    answer, failure = await finished
                    is_working = is_working or failure is None
                    fatal = fatal + 1 if failure is not None and is_fatal(failure) else 0
                    if failure is not None and fatal >= (self.concurrency if is_working else 1):
                        raise ToolError(failure.message)
                    yield answer
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: AsyncClient, topic: Topic) -> tuple[QueryResult, ClientError | None]:
        passages = [candidate.text for candidate in topic.candidates]
        started_s = time.perf_counter()
        try:
            ranking = await client.rerank(topic.query, passages, **self.options)
        except ClientError as error:
            return QueryResult(query=topic.id, error=f"{type(error).__name__}: {error.message}"), error
        return answer_of(topic, ranking, (time.perf_counter() - started_s) * 1e3), None


def answer_of(topic: Topic, ranking: Ranking, wall_ms: float) -> QueryResult:
    """What a server's ranking says of a topic."""
    details = ranking.details
    sure = [one for one in ranking.results if one.certified is not None]
    return QueryResult(
        query=topic.id,
        ranked=tuple((topic.order[one.index], one.relevance_score) for one in ranking.results),
        wall_ms=round(wall_ms, 3),
        windows=None if details is None else details.windows,
        rounds=None if details is None else details.rounds,
        prompt_tokens=ranking.usage.prompt_tokens,
        completion_tokens=ranking.usage.completion_tokens,
        repairs=None if details is None else details.repairs,
        warnings=ranking.warnings,
        strategy=None if details is None else details.strategy,
        model=ranking.model,
        revision=None if details is None else details.revision,
        confidences=tuple(one.confidence for one in sure),
        certified=tuple(bool(one.certified) for one in sure),
    )
