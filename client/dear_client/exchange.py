"""Calls as conversations without I/O: what to send, how long to wait, what the reply means.

``steps`` of a call is a generator that yields ``Send`` and ``Wait``. Whoever drives it answers a ``Send``
with a ``Reply`` or a ``Failure`` and a ``Wait`` by waiting. The clients drive it with httpx, the load test
with aiohttp, tests without anything.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from dear_client.errors import (
    AnswerTimeout,
    ClientError,
    ConnectionFailed,
    ConnectionTimeout,
    InvalidCall,
    ServerError,
    UnexpectedReply,
    server_error,
)
from dear_client.policy import Retry, Timeout

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RETRIED = (429, 503)
_SAY_ENOUGH = (401, 403, 413, 429)
"""Statuses that a proxy may answer with a page of its own: the status is the error, as is any from 500 on."""

_GATEWAY_DIED = (500, b"Internal Server Error")
"""All that Ray's proxy says where the gateway behind it died. A gateway's own 500 is JSON."""

_MAY_HAVE_RUN = ("gateway_unavailable",)

_SHOWN_CHARS = 80
_TO_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. ``headers`` are found in any case; ``content`` is decompressed."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def media_type(self) -> str:
        """Such as ``application/json``, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that brought no whole reply.

    Args:
        error: raised where nothing is retried.
        was_sent: whether the server may have taken the request.
    """

    error: ClientError
    was_sent: bool


# Not the program's own: who seeds that would see the same ids again. Not the system's (uuid4): that lets go
# of the interpreter's lock, and threads that send requests queue for it.
_IDS = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDS.seed)


def new_request_id() -> str:
    """A unique id, 32 hexadecimal digits."""
    return f"{_IDS.getrandbits(128):032x}"


def current_trace() -> dict[str, str]:
    """Headers for the span that runs here, if the program uses OpenTelemetry; this package needs none."""
    trace = sys.modules.get("opentelemetry.trace")  # who never imported it has no span
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers


class Conversation(Protocol[T_co]):
    """One or several requests with one result."""

    def steps(self, terms: Terms) -> Generator[Step, Outcome | None, T_co]:
        """What to do next, until the result is known; raises ClientError."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its reply is read.

    Args:
        path: from the base URL on, with its query.
        read: what a reply of status 200 to 299 means; raises UnexpectedReply.
        body: JSON, or None.
        is_repeatable: whether sending it twice does what sending it once does.
        as_admin: whether it goes with the admin key.
        answer_s: seconds to wait for the answer at least, where it is known to take longer than others.
        trace: headers that name the span it is part of (W3C Trace Context).
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    body: Mapping[str, Any] | None = None
    is_repeatable: bool = True
    as_admin: bool = False
    answer_s: float | None = None
    request_id: str = field(default_factory=new_request_id)
    trace: Mapping[str, str] = field(default_factory=current_trace)

    def steps(self, terms: Terms) -> Generator[Step, Outcome | None, T]:
        """The steps of this call; returns what its reply means.

        Raises:
            ClientError: what is left when nothing more is tried; ``request_id`` is set.
        """
        return _exchange(self, terms)


@dataclass(frozen=True, slots=True)
class Pages(Generic[T]):
    """A list that comes in pages.

    Args:
        page: the call that brings the page after a name, and the name that the next one comes after.
    """

    page: Callable[[str], Call[tuple[list[T], str | None]]]

    def steps(self, terms: Terms) -> Generator[Step, Outcome | None, list[T]]:
        """As of a call, for all pages; ``Timeout.total_s`` is for each."""
        found: list[T] = []
        after: str | None = ""
        while after is not None:
            page, following = yield from self.page(after).steps(terms)
            found += page
            after = following if page and following != after else None
        return found


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request now; ``connect_s`` and ``answer_s`` as in Timeout, the attempt over at ``until_s``."""

    call: Call[Any]
    connect_s: float
    answer_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait so many seconds."""

    seconds: float


Step: TypeAlias = Send | Wait
Outcome: TypeAlias = Reply | Failure


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of a client's calls: URL, timeouts, retries, and the clock (seconds)."""

    base_url: str
    timeout: Timeout = field(default_factory=Timeout)
    retry: Retry = field(default_factory=Retry)
    clock: Callable[[], float] = time.monotonic


def _exchange(call: Call[T], terms: Terms) -> Generator[Step, Outcome | None, T]:
    url = terms.base_url + call.path
    timeout, retry = terms.timeout, terms.retry
    until_s = terms.clock() + timeout.total_s
    attempt = 0
    while True:
        attempt += 1
        left_s = until_s - terms.clock()
        answer_s = min(max(call.answer_s or 0.0, timeout.answer_s), left_s)
        outcome = yield Send(call, min(timeout.connect_s, left_s), answer_s, until_s)
        if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
            try:
                return call.read(outcome)
            except UnexpectedReply as error:
                raise type(error)(f"{url}: {error.message}", request_id=call.request_id) from None
        assert outcome is not None
        found, may_repeat = _judge(call, outcome, url)
        found.request_id = call.request_id
        if not may_repeat or attempt >= retry.attempts:
            raise found
        asked_s = found.retry_after_s if isinstance(found, ServerError) else None
        wait_s = retry.wait_s(attempt, asked_s)
        if wait_s >= until_s - terms.clock():
            raise found
        yield Wait(wait_s)


def _judge(call: Call[Any], outcome: Outcome, url: str) -> tuple[ClientError, bool]:
    """The error of an attempt, and whether another one may help."""
    if isinstance(outcome, Failure):
        safe = call.is_repeatable or not outcome.was_sent
        return outcome.error, isinstance(outcome.error, ConnectionFailed) and safe
    try:
        body = read_object(outcome)
    except UnexpectedReply as error:
        if outcome.status in _SAY_ENOUGH or outcome.status >= 500:
            said = f"{url} answered HTTP {outcome.status} without a reason"
            found = server_error(
                outcome.status, {"message": said}, retry_after_s=retry_after_s(outcome.headers)
            )
            has_died = (outcome.status, outcome.content.strip()) == _GATEWAY_DIED
            return found, outcome.status in _RETRIED or (has_died and call.is_repeatable)
        return UnexpectedReply(f"{url}: {error.message}"), False
    found = server_error(outcome.status, body, retry_after_s=retry_after_s(outcome.headers))
    is_safe = call.is_repeatable or found.code not in _MAY_HAVE_RUN
    return found, outcome.status in _RETRIED and is_safe


def encoded(body: Mapping[str, Any]) -> bytes:
    """A request's body as JSON; lone surrogates become question marks.

    Raises:
        InvalidCall: it holds something that has no JSON.
    """
    try:
        return _TO_JSON.encode(body).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidCall(f"the request cannot be written as JSON: {error}") from None


def read_object(reply: Reply) -> dict[str, Any]:
    """A reply's JSON object.

    Raises:
        UnexpectedReply: it is none; the message begins after the URL.
    """
    try:
        value = json.loads(reply.content)
    except (ValueError, RecursionError):
        raise UnexpectedReply(_not_json(reply)) from None
    if not isinstance(value, dict):
        raise UnexpectedReply(f"answered HTTP {reply.status} with JSON that is no object: {_shown(reply)}")
    return value


def _not_json(reply: Reply) -> str:
    kind = reply.media_type or "no content type"
    hint = ", so this is probably another server's address" if "html" in kind else ""
    if 300 <= reply.status < 400 and (target := reply.headers.get("location")):
        hint = f" and leads to {target}"
    return f"answered HTTP {reply.status} with {kind} instead of JSON{hint}: {_shown(reply)}"


def _shown(reply: Reply) -> str:
    text = " ".join(reply.content[: 4 * _SHOWN_CHARS].decode("utf-8", "replace").split())
    return (text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...") or "(empty)"


def retry_after_s(headers: Mapping[str, str], now_s: Callable[[], float] = time.time) -> float | None:
    """What Retry-After asks for, seconds from now; None where there is none that can be read."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value)) if value and float(value) < float("inf") else None
    except ValueError:
        pass
    from datetime import UTC  # dates are rare here, and what reads them slow to import
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        date = date.replace(tzinfo=date.tzinfo or UTC)  # HTTP's dates are GMT, said or not
        return max(0.0, date.timestamp() - now_s())
    except (ValueError, OverflowError):
        return None


def no_connection(url: str, reason: str) -> ConnectionFailed:
    """Connection refused, or no such host."""
    return ConnectionFailed(f"no server answers at {url}: {reason}")


def connection_timeout(url: str, connect_s: float) -> ConnectionFailed:
    """The connection timed out."""
    return ConnectionTimeout(f"no connection to {url} within {connect_s:g} s")


def broken_connection(url: str, reason: str) -> ConnectionFailed:
    """The connection ended before a reply began."""
    return ConnectionFailed(f"the connection to {url} broke before it answered: {reason}")


def cut_reply(url: str, received: int, expected: str | None) -> ConnectionFailed:
    """The connection ended before the reply did; ``expected`` is the reply's Content-Length."""
    of = f" of {expected}" if expected else ""
    return ConnectionFailed(f"the connection to {url} broke half-way: {received}{of} bytes of the reply came")


def no_answer(url: str, waited_s: float) -> AnswerTimeout:
    """Connected, but no reply in time."""
    return AnswerTimeout(f"no answer from {url} within {waited_s:.3g} s")
