"""The blocking client."""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

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
    """Drives calls with httpx."""

    def __init__(self, wire: Wire, transport: httpx.BaseTransport | None) -> None:
        import httpx  # as in wire.py

        self.wire = wire
        # All are kept: one over the most may be closed by a thread while another already waits for its answer
        # (github.com/encode/httpcore/issues/1110; a limit may come back when that is mended).
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        if transport is None and not is_behind_proxy():
            transport = httpx.HTTPTransport(limits=limits, socket_options=keepalive())
        self.http = httpx.Client(transport=transport, limits=limits)

    def run(
        self,
        conversation: Conversation[T],
        send: Callable[[Send], Reply | Failure] | None = None,
        wait: Callable[[float], object] = time.sleep,
    ) -> T:
        """Its result; raises ClientError. ``send`` in place of one that reads whole replies."""
        send = send or self._send
        steps = conversation.steps(self.wire.terms)
        answer: Reply | Failure | None = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Wait):
                    wait(step.seconds)
                    answer = None
                else:
                    answer = send(step)
        except StopIteration as end:
            result: T = end.value
            return result

    @contextmanager
    def open(self, call: Call[None]) -> Iterator[Iterator[bytes]]:
        """The body of a call's reply as it comes, once its status is 200; raises ClientError."""
        with ExitStack() as held:
            body: Iterator[bytes] = iter(())

            def begin(step: Send) -> Reply | Failure:
                nonlocal body
                response = None
                try:
                    response = self.http.send(self.wire.prepared(step), stream=True)
                    held.callback(response.close)
                    body = self._parts(response, step)
                    content = b"" if response.status_code == 200 else b"".join(body)
                    return Reply(response.status_code, response.headers, content)
                except self.wire.errors as error:
                    return self.wire.failure(error, step, response)

            self.run(call, begin)
            yield body

    def _send(self, step: Send) -> Reply | Failure:
        response = None
        try:
            with closing(self.http.send(self.wire.prepared(step), stream=True)) as response:
                content = b"".join(self._parts(response, step))
                return Reply(response.status_code, response.headers, content)
        except self.wire.errors as error:
            return self.wire.failure(error, step, response)

    def _parts(self, response: httpx.Response, step: Send) -> Iterator[bytes]:
        for part in response.iter_bytes():
            self.wire.left_s(step)
            yield part


class _Blocking(Generic[C]):
    """An object with calls and a driver."""

    def __init__(self, calls: C, driver: _Driver) -> None:
        self._calls = calls
        self._driver = driver


def blocking(
    build: Callable[Concatenate[C, P], Conversation[T]],
) -> Callable[Concatenate[_Blocking[C], P], T]:
    """A method that runs a call, with the call's signature and docstring."""

    @functools.wraps(build)
    def method(self: _Blocking[C], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._driver.run(build(self._calls, *args, **kwargs))

    return method


class Admin(_Blocking[AdminCalls]):
    """The server's admin routes; they need the admin key."""

    tenants = blocking(AdminCalls.tenants)
    tenant = blocking(AdminCalls.tenant)
    create_tenant = blocking(AdminCalls.create_tenant)
    set_tenant = blocking(AdminCalls.set_tenant)
    delete_tenant = blocking(AdminCalls.delete_tenant)
    grant = blocking(AdminCalls.grant)
    ungrant = blocking(AdminCalls.ungrant)
    keys = blocking(AdminCalls.keys)
    create_key = blocking(AdminCalls.create_key)
    rotate_key = blocking(AdminCalls.rotate_key)
    revoke_key = blocking(AdminCalls.revoke_key)
    adapters = blocking(AdminCalls.adapters)
    adapter = blocking(AdminCalls.adapter)
    register_adapter = blocking(AdminCalls.register_adapter)
    activate_adapter = blocking(AdminCalls.activate_adapter)
    rollback_adapter = blocking(AdminCalls.rollback_adapter)
    retire_adapter = blocking(AdminCalls.retire_adapter)
    share_adapter = blocking(AdminCalls.share_adapter)
    replicas = blocking(AdminCalls.replicas)
    audit = blocking(AdminCalls.audit)


class Client(_Blocking[Calls]):
    """A client of one server. Safe to use from several threads; close it, or use it in a ``with``.

    Args:
        base_url: else the environment's DEAR_BASE_URL, else http://127.0.0.1:8000.
        api_key: else the environment's DEAR_API_KEY; a server without keys needs none.
        model: ranks where a call names no other; else the server's default.
        timeout: how long calls may take.
        retry: what is tried again.
        admin_key: for ``admin``; else the environment's DEAR_ADMIN_KEY.
        transport: in place of httpx's own, for proxies and tests.

    Raises:
        ConfigurationError: a URL or key that cannot work.
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        wire = Wire(base_url, api_key, admin_key, timeout, retry)
        super().__init__(Calls(model), _Driver(wire, transport))
        self.base_url = wire.base_url
        self.admin = Admin(AdminCalls(), self._driver)

    rerank = blocking(Calls.rerank)
    models = blocking(Calls.models)
    health = blocking(Calls.health)
    ready = blocking(Calls.ready)

    @contextmanager
    def stream(
        self, query: str, documents: Sequence[Document], **options: Unpack[RerankOptions]
    ) -> Iterator[RankStream]:
        """As ``rerank``, each rank as soon as it is decided: iterate over what ``with`` gives."""
        call, documents = self._calls.stream(query, documents, **options)
        ranks = Ranks(documents, options.get("top_n"), self.base_url + call.path, call.request_id)
        with self._driver.open(call) as body:
            yield RankStream(self._driver.wire, body, ranks)

    def rerank_iter(
        self,
        requests: Iterable[RerankRequest],
        *,
        concurrency: int = 8,
        progress: OnProgress | None = None,
    ) -> Generator[Ranked, None, None]:
        """Rank many lists, ``concurrency`` at a time; yields the results in their order.

        ``requests`` is read as it is worked off, a little ahead. An error takes the place of its ranking, and
        the rest goes on; an error of ``requests`` itself ends it. ``progress`` is called after each request,
        from any thread. Whoever stops early waits for the requests in flight; no other is begun.
        """
        counter, stopped = Counter(progress), threading.Event()

        def wait(seconds: float) -> None:
            if stopped.wait(seconds):
                raise CancelledError

        def rank(request: RerankRequest) -> Ranked:
            ranked: Ranked
            try:
                ranked = self._driver.run(call_of(self._calls, request), wait=wait)
            except ClientError as error:
                ranked = error
            counter.count(ranked)
            return ranked

        begun: deque[Future[Ranked]] = deque()
        with ThreadPoolExecutor(checked(concurrency), thread_name_prefix="dear-client") as pool:
            try:
                for request in requests:
                    # In the caller's context, for the span that it may hold.
                    begun.append(pool.submit(contextvars.copy_context().run, rank, request))
                    while begun and (len(begun) >= AHEAD * concurrency or begun[0].done()):
                        yield begun.popleft().result()
                while begun:
                    yield begun.popleft().result()
            finally:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def rerank_many(
        self,
        requests: Iterable[RerankRequest],
        *,
        concurrency: int = 8,
        progress: OnProgress | None = None,
    ) -> list[Ranked]:
        """Rank many lists, ``concurrency`` at a time: a result for each, in their order."""
        return list(self.rerank_iter(requests, concurrency=concurrency, progress=progress))

    def close(self) -> None:
        """Close the connections."""
        self._driver.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RankStream:
    """The ranks of one request, best first, as they are decided; then ``ranking`` has all of them."""

    def __init__(self, wire: Wire, body: Iterator[bytes], ranks: Ranks) -> None:
        self._ranks = ranks
        self._decided = self._read(wire, body)

    @property
    def ranking(self) -> Ranking:
        """The whole ranking, once all ranks were read; raises ClientError before."""
        return self._ranks.ranking

    def __iter__(self) -> Iterator[RankedDocument]:
        return self._decided  # one for all: a loop goes on where the one before it broke off

    def _read(self, wire: Wire, body: Iterator[bytes]) -> Iterator[RankedDocument]:
        with wire.reading(self._ranks):
            for part in body:
                yield from self._ranks.feed(part)
        _ = self.ranking
