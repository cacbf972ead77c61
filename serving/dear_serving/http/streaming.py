"""A ranking as server-sent events, each rank as soon as it is decided."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Send

from dear_serving.errors import RequestError
from dear_serving.http.dialects.documents import RerankBody, results_along
from dear_serving.http.dialects.reply import RerankReply
from dear_serving.http.errors import error_body
from dear_serving.types import OnProgress, Order, Ranking

Encode = Callable[[Any], Awaitable[str]]
"""JSON of anything."""

Rank = Callable[[OnProgress | None], Awaitable[Ranking]]


class _EventStream(StreamingResponse):
    """Closes its events as soon as the caller leaves, not when they are garbage-collected."""

    body_iterator: AsyncGenerator[str, None]

    async def stream_response(self, send: Send) -> None:
        """As Starlette's."""
        async with contextlib.aclosing(self.body_iterator):
            await super().stream_response(send)


def event_stream(events: AsyncGenerator[str, None]) -> StreamingResponse:
    """Server-sent events that no proxy holds back."""
    return _EventStream(
        events,
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def stream_ranking(
    body: RerankBody, rank: Rank, reply: Callable[[Ranking], RerankReply], encode: Encode
) -> StreamingResponse:
    """``rank`` events, one a result and best first, then a ``ranking`` event with the whole reply.

    Raises:
        RequestError: from ``rank``, where it fails before the first event; later it is an ``error`` event.
    """
    events = _events(body, rank, reply, encode)
    first = await anext(events)
    return event_stream(_resume(first, events, encode))


async def _resume(first: str, rest: AsyncGenerator[str, None], encode: Encode) -> AsyncGenerator[str, None]:
    try:
        yield first
        async for event in rest:
            yield event
    except RequestError as error:
        yield _event("error", await encode(error_body(error)))
    finally:
        await rest.aclose()


async def _events(
    body: RerankBody, rank: Rank, reply: Callable[[Ranking], RerankReply], encode: Encode
) -> AsyncGenerator[str, None]:
    progress: asyncio.Queue[tuple[Order, tuple[float, ...]] | None] = asyncio.Queue()
    ranking = asyncio.ensure_future(rank(lambda order, scores: progress.put_nowait((order, scores))))
    ranking.add_done_callback(lambda _: progress.put_nowait(None))
    sent = 0
    try:
        while (best := await progress.get()) is not None:
            for result in results_along(body, *best, first=sent):
                yield _event("rank", await encode({"rank": sent, **result}))
                sent += 1
        done = await ranking
        for result in results_along(body, done.order, done.scores, sent, done.sureness):
            yield _event("rank", await encode({"rank": sent, **result}))
            sent += 1
        yield _event("ranking", await encode(reply(done)))
        yield "data: [DONE]\n\n"
    finally:
        ranking.cancel()


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
