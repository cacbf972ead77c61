"""Sends one request of a load test, with the client's own conversation over aiohttp.

aiohttp sends ten times as many requests/s from one core as httpx does, and the generator must not be
what a load test measures.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError

from dear_client.calls import Calls
from dear_client.errors import (
    AnswerTimeout,
    ClientError,
    ConnectionFailed,
    InvalidRanking,
    ServerError,
    UnexpectedReply,
)
from dear_client.exchange import (
    Call,
    Failure,
    Reply,
    Send,
    Terms,
    Wait,
    broken_connection,
    connection_timeout,
    cut_reply,
    no_answer,
    no_connection,
    retry_after_s,
)
from dear_client.models import Ranking
from dear_client.options import RerankOptions
from dear_client.wire import Wire
from dear_tools.fatal import is_fatal
from dear_tools.load.lists import List
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record, Refusal, Result

_REFUSALS = (429, 503)
_SHORTEST_S = 1e-3
_SHOWN_CHARS = 300


@dataclass(slots=True)
class _Attempts:
    """The attempts of a call."""

    refusals: int = 0
    named: int = 0
    retried: list[Refusal] = field(default_factory=list)


class Sender:
    """Sends requests to one server and records the results. Open it with ``async with``.

    Args:
        terms: where to, how long, and how often.
        options: of every request.
        on_ranking: called with each list and its ranking.
    """

    def __init__(
        self,
        terms: Terms,
        options: RerankOptions,
        on_ranking: Callable[[List, Ranking], object] = lambda asked, ranking: None,
    ) -> None:
        self._terms = terms
        self._options = options
        self._on_ranking = on_ranking
        self._calls = Calls()
        self._wires: dict[str, Wire] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(
        self, tenant: Tenant, model: str, asked: List, intended_s: float, start_s: float
    ) -> Record:
        """Send one request, with its retries; never raises for what the server does.

        Args:
            intended_s: when it was to be sent, seconds after ``start_s`` of time.perf_counter().
        """
        sent_s = time.perf_counter() - start_s
        attempts = _Attempts()
        options: RerankOptions = {**self._options, "model": model or None}
        call = self._calls.rerank(asked.query, asked.passages, **options)
        ranking: Ranking | None = None
        error: ClientError | None = None
        try:
            ranking = await self._drive(call, self._wire_of(tenant), attempts)
        except ClientError as raised:
            error = raised
        else:
            self._on_ranking(asked, ranking)
        return Record(
            intended_s=intended_s,
            sent_s=sent_s,
            done_s=time.perf_counter() - start_s,
            tenant=tenant.name,
            model=model,
            result="ok" if error is None else _result(error),
            passages=len(asked.passages),
            status=error.status if isinstance(error, ServerError) else 200 if error is None else None,
            message=None if error is None else _shown(error.message),
            is_fatal=error is not None and is_fatal(error),
            refusals=attempts.refusals,
            named=attempts.named,
            retry_after_s=error.retry_after_s if isinstance(error, ServerError) else None,
            retried=tuple(attempts.retried),
            **({} if ranking is None else _costs(ranking)),
        )

    def _wire_of(self, tenant: Tenant) -> Wire:
        if (wire := self._wires.get(tenant.name)) is None:
            terms = self._terms
            wire = Wire(terms.base_url, tenant.key, None, terms.timeout, terms.retry)
            self._wires[tenant.name] = wire
        return wire

    async def _drive(self, call: Call[Ranking], wire: Wire, attempts: _Attempts) -> Ranking:
        steps = call.steps(self._terms)
        answer: Reply | Failure | None = None
        refused: tuple[int, float | None, float] | None = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                    answer = None
                    continue
                if refused is not None:
                    status, asked_s, at_s = refused
                    waited_s = time.perf_counter() - at_s
                answer = await self._attempt(step, wire)
                status_now = answer.status if isinstance(answer, Reply) else None
                if refused is not None:
                    let_in = status_now is not None and status_now not in _REFUSALS
                    attempts.retried.append(Refusal(status, asked_s, waited_s, let_in))
                    refused = None
                if isinstance(answer, Reply) and answer.status in _REFUSALS:
                    named_s = retry_after_s(answer.headers)
                    attempts.refusals += 1
                    attempts.named += named_s is not None
                    refused = answer.status, named_s, time.perf_counter()
        except StopIteration as end:
            ranking: Ranking = end.value
            return ranking

    async def _attempt(self, step: Send, wire: Wire) -> Reply | Failure:
        assert self._session is not None
        request = wire.request(step)
        url: str = request["url"]
        answer_s, connect_s = (max(seconds, _SHORTEST_S) for seconds in (step.answer_s, step.connect_s))
        response: aiohttp.ClientResponse | None = None
        try:
            async with self._session.request(
                request["method"],
                url,
                data=request["content"],
                headers=request["headers"],
                timeout=aiohttp.ClientTimeout(total=answer_s, sock_connect=connect_s),
                allow_redirects=False,  # as httpx: a redirect would be another request
            ) as response:
                return Reply(response.status, response.headers, await response.read())
        except aiohttp.ConnectionTimeoutError:
            return Failure(connection_timeout(url, step.connect_s), was_sent=False)
        except aiohttp.ClientConnectorError as error:
            return Failure(no_connection(url, _reason(error.os_error)), was_sent=False)
        except TimeoutError:
            return Failure(no_answer(url, step.answer_s), was_sent=True)
        except (aiohttp.ClientError, OSError) as error:
            if response is None:
                return Failure(broken_connection(url, _reason(error)), was_sent=True)
            if isinstance(error.__cause__, ContentEncodingError):
                return Failure(UnexpectedReply(f"{url} answered what cannot be decompressed"), was_sent=True)
            expected = response.headers.get("content-length")
            return Failure(cut_reply(url, response.content.total_bytes, expected), was_sent=True)


def _reason(error: Exception) -> str:
    """Why the connection failed, in a few words."""
    match error:
        case aiohttp.ServerDisconnectedError():
            return "the server closed it"
        case aiohttp.ClientResponseError():  # what came is no HTTP
            return error.message.partition("\n")[0].rstrip(":").lower()
        case OSError(errno=int(number)) if number > 0 and not isinstance(error, ssl.SSLError):
            return os.strerror(number).lower()
    found = error.strerror if isinstance(error, OSError) else None
    return (found or str(error) or type(error).__name__).lower()


def _shown(message: str) -> str:
    """A message as one short line: a server may send a page, or control characters."""
    line = " ".join("".join(one if one.isprintable() else " " for one in message).split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}..."


def _result(error: ClientError) -> Result:
    match error:
        case ServerError(status=429):
            return "refused"
        case ServerError(status=503) | ConnectionFailed():
            return "unavailable"
        case ServerError(status=504) | AnswerTimeout():
            return "late"
        case InvalidRanking():
            return "invalid"
        case _:
            return "failed"


def _costs(ranking: Ranking) -> dict[str, Any]:
    """Tokens, windows, repairs and times of a ranking."""
    found: dict[str, Any] = {
        "prompt_tokens": ranking.usage.prompt_tokens,
        "completion_tokens": ranking.usage.completion_tokens,
    }
    if (details := ranking.details) is not None:
        found |= {
            "windows": details.windows,
            "repairs": details.repairs.total,
            "queue_ms": details.queue_ms if math.isfinite(details.queue_ms) else 0.0,
            "engine_ms": details.engine_ms if math.isfinite(details.engine_ms) else 0.0,
        }
    return found
