"""The asyncio client: Client's methods, awaited."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from dear_client.administration import AdminCalls
from dear_client.calls import Calls
from dear_client.errors import ClientError
from dear_client.events import Ranks
from dear_client.exchange import Call, Conversation, Failure, Reply, Send, Wait
from dear_client.many import AHEAD, Counter, OnProgress, Ranked, call_of, checked
from dear_client.models import Document, RankedDocument, Ranking
from dear_client.options import RerankOptions, RerankRequest
from dear_client.policy import Retry, Timeout
from dear_client.wire import Wire, is_behind_proxy, keepalive

if TYPE_CHECKING:
    import httpx

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")


class _Driver:
    """Drives calls with httpx, on the event loop."""

    def __init__(self, wire: Wire, transport: httpx.AsyncBaseTransport | None) -> None:
        import httpx  # as in wire.py

        self.wire = wire
        # Of each one kept httpx asks at every request whether it still stands: many cost more than new ones.
        # (None is closed here while somebody waits for its answer: that takes threads.)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        if transport is None and not is_behind_proxy():
            transport = httpx.AsyncHTTPTransport(limits=limits, socket_options=keepalive())
        self.http = httpx.AsyncClient(transport=transport, limits=limits)

    async def run(
        self, conversation: Conversation[T], send: Callable[[Send], Awaitable[Reply | Failure]] | None = None
    ) -> T:
        """Its result; raises ClientError. ``send`` in place of one that reads whole replies."""
        send = send or self._send
        steps = conversation.steps(self.wire.terms)
        answer: Reply | Failure | None = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    answer = None
                else:
                    answer = await send(step)
        except StopIteration as end:
            result: T = end.value
            return result

    @asynccontextmanager
    async def open(self, call: Call[None]) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The body of a call's reply as it comes, once its status is 200; raises ClientError."""
        async with AsyncExitStack() as held:
            begun: list[AsyncGenerator[bytes, None]] = []

            async def begin(step: Send) -> Reply | Failure:
                response = None
                try:
                    async with asyncio.timeout(self.wire.left_s(step)):
                        response = await self.http.send(self.wire.prepared(step), stream=True)
                        held.push_async_callback(response.aclose)
                        content = b"" if response.status_code == 200 else await response.aread()
                    begun.append(self._parts(response, step))
                    return Reply(response.status_code, response.headers, content)
                except self.wire.errors as error:
                    return self.wire.failure(error, step, response)

            await self.run(call, begin)
            yield await held.enter_async_context(aclosing(begun[-1]))

    async def _send(self, step: Send) -> Reply | Failure:
        response = None
        try:
            async with asyncio.timeout(self.wire.left_s(step)):
                response = await self.http.send(self.wire.prepared(step), stream=True)
                async with aclosing(response):
                    return Reply(response.status_code, response.headers, await response.aread())
        except self.wire.errors as error:
            return self.wire.failure(error, step, response)

    async def _parts(self, response: httpx.Response, step: Send) -> AsyncGenerator[bytes, None]:
        parts = response.aiter_bytes()
        while True:
            async with asyncio.timeout(self.wire.left_s(step)):
                part = await anext(parts, None)
            if part is None:
                return
            yield part


class _Awaiting(Generic[C]):
    """An object with calls and a driver."""

    def __init__(self, calls: C, driver: _Driver) -> None:
        self._calls = calls
        self._driver = driver


def awaiting(
    build: Callable[Concatenate[C, P], Conversation[T]],
) -> Callable[Concatenate[_Awaiting[C], P], Awaitable[T]]:
    """A method that runs a call, awaited, with the call's signature and docstring."""

    @functools.wraps(build)
    async def method(self: _Awaiting[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._driver.run(build(self._calls, *args, **kwargs))

    return method


class AsyncAdmin(_Awaiting[AdminCalls]):
    """The server's admin routes; they need the admin key."""

    tenants = awaiting(AdminCalls.tenants)
    tenant = awaiting(AdminCalls.tenant)
    create_tenant = awaiting(AdminCalls.create_tenant)
    set_tenant = awaiting(AdminCalls.set_tenant)
    delete_tenant = awaiting(AdminCalls.delete_tenant)
    grant = awaiting(AdminCalls.grant)
    ungrant = awaiting(AdminCalls.ungrant)
    keys = awaiting(AdminCalls.keys)
    create_key = awaiting(AdminCalls.create_key)
    rotate_key = awaiting(AdminCalls.rotate_key)
    revoke_key = awaiting(AdminCalls.revoke_key)
    adapters = awaiting(AdminCalls.adapters)
    adapter = awaiting(AdminCalls.adapter)
    register_adapter = awaiting(AdminCalls.register_adapter)
    activate_adapter = awaiting(AdminCalls.activate_adapter)
    rollback_adapter = awaiting(AdminCalls.rollback_adapter)
    retire_adapter = awaiting(AdminCalls.retire_adapter)
    share_adapter = awaiting(AdminCalls.share_adapter)
    replicas = awaiting(AdminCalls.replicas)
    audit = awaiting(AdminCalls.audit)


class AsyncClient(_Awaiting[Calls]):
    """A client of one server, for one event loop; close it, or use it in an ``async with``.

    Arguments and errors are those of Client.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        retry: Retry | None = None,
        admin_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        wire = Wire(base_url, api_key, admin_key, timeout, retry)
        super().__init__(Calls(model), _Driver(wire, transport))
        self.base_url = wire.base_url
        self.admin = AsyncAdmin(AdminCalls(), self._driver)

    rerank = awaiting(Calls.rerank)
    models = awaiting(Calls.models)
    health = awaiting(Calls.health)
    ready = awaiting(Calls.ready)

    @asynccontextmanager
    async def stream(
        self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]
    ) -> AsyncIterator[AsyncRankStream]:
        """As ``rerank``, each rank as soon as it is decided: iterate over what ``async with`` gives."""
        call, documents = self._calls.stream(query, documents, **options)
        ranks = Ranks(documents, options.get("top_n"), self.base_url + call.path, call.request_id)
        async with self._driver.open(call) as body:
            stream = AsyncRankStream(self._driver.wire, body, ranks)
            async with aclosing(stream.decided):
                yield stream

    async def rerank_iter(
        self,
        requests: Iterable[RerankRequest],
        *,
        concurrency: int = 8,
        progress: OnProgress | None = None,
    ) -> AsyncGenerator[Ranked, None]:
        """As Client's: results in the requests' order, errors in place of rankings.

        Stopping early cancels the requests in flight; after ``aclose()`` nothing runs any more.
        """
        counter = Counter(progress)
        waiting: asyncio.Queue[tuple[RerankRequest, asyncio.Future[Ranked]]] = asyncio.Queue()
        begun: deque[asyncio.Future[Ranked]] = deque()

        async def rank(request: RerankRequest) -> Ranked:
            ranked: Ranked
            try:
                ranked = await self._driver.run(call_of(self._calls, request))
            except ClientError as error:
                ranked = error
            counter.count(ranked)
            return ranked

        async def work() -> None:
            while True:
                request, place = await waiting.get()
                with suppress(asyncio.InvalidStateError):  # whoever waited for it was cancelled
                    try:
                        place.set_result(await rank(request))
                    except Exception as error:
                        place.set_exception(error)

        workers = [asyncio.create_task(work()) for _ in range(checked(concurrency))]
        try:
            for request in requests:
                begun.append(asyncio.get_running_loop().create_future())
                waiting.put_nowait((request, begun[-1]))
                while begun and (len(begun) >= AHEAD * concurrency or begun[0].done()):
                    yield await begun.popleft()
            while begun:
                yield await begun.popleft()
        finally:
            undone: list[asyncio.Future[Any]] = [*workers, *begun]
            for one in undone:
                one.cancel()
            await asyncio.gather(*undone, return_exceptions=True)

    async def rerank_many(
        self,
        requests: Iterable[RerankRequest],
        *,
        concurrency: int = 8,
        progress: OnProgress | None = None,
    ) -> list[Ranked]:
        """As Client's: a result for each request, in their order."""
        ranked = self.rerank_iter(requests, concurrency=concurrency, progress=progress)
        return [one async for one in ranked]

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncRankStream:
    """The ranks of one request, best first, as they are decided; then ``ranking`` has all of them."""

    def __init__(self, wire: Wire, body: AsyncIterator[bytes], ranks: Ranks) -> None:
        self._ranks = ranks
        self.decided = self._read(wire, body)

    @property
    def ranking(self) -> Ranking:
        """The whole ranking, once all ranks were read; raises ClientError before."""
        return self._ranks.ranking

    def __aiter__(self) -> AsyncIterator[RankedDocument]:
        return self.decided  # as RankStream's

    async def _read(self, wire: Wire, body: AsyncIterator[bytes]) -> AsyncGenerator[RankedDocument, None]:
        with wire.reading(self._ranks):
            async for part in body:
                for rank in self._ranks.feed(part):
                    yield rank
        _ = self.ranking
