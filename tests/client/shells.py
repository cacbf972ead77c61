"""Both clients behind one face, so that a test of what they share is written once.

A shell's methods are awaited; those of the blocking client run in a thread, so that the event loop is free to
serve what it asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from operator import attrgetter
from typing import Any, Literal

import httpx

from dear_client import AsyncClient, Client, RankedDocument, Ranking
from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import create_app

Kind = Literal["blocking", "asyncio"]
KINDS: tuple[Kind, ...] = ("blocking", "asyncio")

_END = object()


class Shell:
    """A client of either kind. Arguments are those of Client, but for ``app``: a gateway in this process."""

    def __init__(
        self, kind: Kind, base_url: str | None = None, app: GatewayState | None = None, **given: Any
    ):
        self.kind = kind
        if app is not None:
            base_url = base_url or "http://gateway"
            within = httpx.ASGITransport(create_app(app), raise_app_exceptions=False)
            given["transport"] = within if kind == "asyncio" else _Bridge(within)
        self.client: Any = (AsyncClient if kind == "asyncio" else Client)(base_url, **given)

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What a method returns; ``method`` may be dotted, such as ``admin.tenants``."""
        if method == "stream":  # all of it
            return await self.stream(*args, **kwargs)
        bound = attrgetter(method)(self.client)
        if self.kind == "asyncio":
            return await bound(*args, **kwargs)
        return await asyncio.to_thread(bound, *args, **kwargs)

    async def stream(self, *args: Any, **kwargs: Any) -> tuple[list[RankedDocument], Ranking]:
        """All ranks of a stream, and its ranking."""
        ranks = []
        async with self.streaming(*args, **kwargs) as stream:
            async for rank in stream:
                ranks.append(rank)
            return ranks, stream.ranking

    @asynccontextmanager
    async def streaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """A stream that is iterated with ``async for``, whichever kind it is."""
        opened = self.client.stream(*args, **kwargs)
        if self.kind == "asyncio":
            async with opened as stream:
                yield stream
            return
        stream = await asyncio.to_thread(opened.__enter__)
        try:
            yield _Stepwise(stream)
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)

    def iterate(self, requests: Iterable[Any], **kwargs: Any) -> Any:
        """``rerank_iter``: an async iterator with ``aclose``."""
        ranked = self.client.rerank_iter(requests, **kwargs)
        return ranked if self.kind == "asyncio" else _Stepwise(ranked)

    async def close(self) -> None:
        """Close the client."""
        await self("close")


class _Stepwise:
    """A blocking iterable, each step of it in a thread."""

    def __init__(self, iterable: Any) -> None:
        self._iterable = iterable
        self._iterator = iter(iterable)

    @property
    def ranking(self) -> Ranking:
        ranking: Ranking = self._iterable.ranking
        return ranking

    def __aiter__(self) -> _Stepwise:
        return self

    async def __anext__(self) -> Any:
        found = await asyncio.to_thread(next, self._iterator, _END)
        if found is _END:
            raise StopAsyncIteration
        return found

    async def aclose(self) -> None:
        await asyncio.to_thread(self._iterable.close)


class _Bridge(httpx.BaseTransport):
    """A blocking transport to an app that runs on the event loop."""

    def __init__(self, app: httpx.ASGITransport) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def handle() -> httpx.Response:
            reply = await self._app.handle_async_request(request)
            return httpx.Response(reply.status_code, headers=reply.headers, content=await reply.aread())

        return asyncio.run_coroutine_threadsafe(handle(), self._loop).result()


@contextmanager
def environment(monkeypatch: Any, **variables: str) -> Iterator[None]:
    """Only these of the variables that the client reads."""
    with monkeypatch.context() as patch:
        for name in ("DEAR_BASE_URL", "DEAR_API_KEY", "DEAR_ADMIN_KEY"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield
