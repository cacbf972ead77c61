"""Callers that rerank small lists over and over, half of them without retries, and what became of it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx

from dear_client import ClientError, Timeout
from dear_client.async_client import AsyncClient
from dear_client.wire import keepalive

Kind = Literal["bare", "client"]

_PATIENCE_S = 30.0  # a bare call, and an attempt of the client
_PROBE_S, _PROBE_TIMEOUT_S, _PROBES_FAILED = 1.0, 2.0, 2
_WORDS = ("court", "contract", "lease", "clause", "breach", "notice", "tenant", "damages", "appeal", "judge")


@dataclass(frozen=True, slots=True)
class Answer:
    """One call's end. Times are seconds of the monotonic clock; ``cause`` is empty where it succeeded."""

    kind: Kind
    began_s: float
    ended_s: float
    cause: str

    @property
    def is_ok(self) -> bool:
        """Whether it was answered as asked."""
        return not self.cause


class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to the next proxy that is healthy, as a load balancer or Service in front would.

    A proxy whose ``/-/healthz`` failed twice in a row, a second apart, gets no requests until it answers. A
    connection on which nothing comes is probed (as HAProxy's srvtcpka does), and one request is never sent
    twice.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._inner = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=None), socket_options=keepalive()
        )
        self._proxies = [httpx.URL(url) for url in urls]
        self._failed = [0] * len(self._proxies)
        self._turn = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        healthy = [i for i, failed in enumerate(self._failed) if failed < _PROBES_FAILED]
        choice = healthy or range(len(self._proxies))
        self._turn += 1
        proxy = self._proxies[choice[self._turn % len(choice)]]
        request.url = request.url.copy_with(host=proxy.host, port=proxy.port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Nothing: several clients share it. See ``close``."""

    async def close(self) -> None:
        """Close all connections."""
        await self._inner.aclose()

    async def watch(self) -> None:
        """Look at each proxy every second, until cancelled."""
        async with httpx.AsyncClient(timeout=_PROBE_TIMEOUT_S) as http, asyncio.TaskGroup() as group:
            for index in range(len(self._proxies)):
                group.create_task(self._probe(http, index))

    async def _probe(self, http: httpx.AsyncClient, index: int) -> None:
        while True:
            try:
                is_healthy = (await http.get(self._proxies[index].join("/-/healthz"))).is_success
            except httpx.HTTPError:
                is_healthy = False
            self._failed[index] = 0 if is_healthy else self._failed[index] + 1
            await asyncio.sleep(_PROBE_S)


@dataclass(frozen=True, slots=True)
class Callers:
    """Some callers with one key; each makes a call every ``pace_s`` seconds, or once the last ended."""

    kind: Kind
    count: int
    key: str
    pace_s: float = 1.0


class Load:
    """Callers at work in a thread of their own, inside ``with``."""

    def __init__(self, urls: Sequence[str], groups: Sequence[Callers]) -> None:
        self._urls = urls
        self._groups = groups
        self._answers: list[Answer] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def answers(self) -> list[Answer]:
        """Calls that have ended, by their ends."""
        return list(self._answers)

    def __enter__(self) -> Load:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        balancer = Balancer(self._urls)
        tasks = [asyncio.create_task(balancer.watch())]
        for group in self._groups:
            for number in range(group.count):
                tasks.append(asyncio.create_task(self._caller(balancer, group, number)))
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await balancer.close()

    async def _caller(self, balancer: Balancer, group: Callers, number: int) -> None:
        chance = random.Random(f"{group.kind} {number}")
        await asyncio.sleep(chance.random() * group.pace_s)
        if group.kind == "bare":
            headers = {"authorization": f"Bearer {group.key}"}
            async with httpx.AsyncClient(transport=balancer, headers=headers, timeout=_PATIENCE_S) as http:
                await self._repeat(group, chance, lambda *list_: _bare(http, *list_))
        else:
            timeout = Timeout(answer_s=_PATIENCE_S)
            async with AsyncClient(self._urls[0], group.key, timeout=timeout, transport=balancer) as client:
                await self._repeat(group, chance, lambda *list_: _with_client(client, *list_))

    async def _repeat(
        self, group: Callers, chance: random.Random, call: Callable[[str, list[str]], Awaitable[str]]
    ) -> None:
        while True:
            query = " ".join(chance.choices(_WORDS, k=4))
            documents = [" ".join(chance.choices(_WORDS, k=12)) for _ in range(chance.randint(5, 10))]
            began_s = time.monotonic()
            cause = await call(query, documents)
            ended_s = time.monotonic()
            self._answers.append(Answer(group.kind, began_s, ended_s, cause))
            await asyncio.sleep(max(0.02, group.pace_s * (0.8 + 0.4 * chance.random()) - (ended_s - began_s)))


async def _bare(http: httpx.AsyncClient, query: str, documents: list[str]) -> str:
    """Why a call failed, or nothing."""
    body = {"model": "legal", "query": query, "documents": documents}
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reply = await http.post("http://gateways/v2/rerank", json=body)
    except (httpx.HTTPError, TimeoutError) as error:
        return type(error).__name__
    if reply.status_code == 200:
        return "" if len(reply.json()["results"]) == len(documents) else "200 with too few results"
    return f"{reply.status_code} {_code_of(reply)}".strip()


async def _with_client(client: AsyncClient, query: str, documents: list[str]) -> str:
    try:
        await client.rerank(query, documents, model="legal")
    except ClientError as error:
        status = getattr(error, "status", None)
        return f"{type(error).__name__}{'' if status is None else f' {status}'}"
    return ""


def _code_of(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["code"] or "")
    except (ValueError, KeyError, TypeError):  # not ours: Serve's own words, or none
        return ""
