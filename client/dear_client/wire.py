"""The part of httpx that both clients share: URLs, headers and errors.

httpx is imported when a client is made: it takes nearly as long as the rest of the package together.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dear_client.errors import ConfigurationError, InvalidCall, UnexpectedReply
from dear_client.events import Ranks
from dear_client.exchange import (
    Failure,
    Send,
    Terms,
    broken_connection,
    connection_timeout,
    cut_reply,
    encoded,
    no_answer,
    no_connection,
)
from dear_client.policy import Retry, Timeout

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "DEAR_BASE_URL"
KEY_VARIABLE = "DEAR_API_KEY"
ADMIN_KEY_VARIABLE = "DEAR_ADMIN_KEY"

_API_VERSION = re.compile("/v[12]$")
_SHORTEST_S, _LONGEST_S = 1e-3, 1e6  # what sockets take
_CLOCK_S = 0.01
_PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
"""Seconds, seconds, probes. A system without one of them keeps its own."""


class Wire:
    """Turns steps into requests of httpx, and errors of httpx into ours.

    Args:
        base_url: else the environment's DEAR_BASE_URL, else http://127.0.0.1:8000. A trailing ``/v1`` or
            ``/v2``, as other clients need it, is taken off.
        api_key: else the environment's DEAR_API_KEY, else none is sent.
        admin_key: for admin calls; else the first of the environment's DEAR_ADMIN_KEY.

    Raises:
        ConfigurationError: a URL without http or https, or a key with characters that no header takes.
    """

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        admin_key: str | None,
        timeout: Timeout | None,
        retry: Retry | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import httpx

        self._request, self._url = httpx.Request, functools.lru_cache(64)(httpx.URL)
        self.errors = (httpx.HTTPError, TimeoutError)  # what ``failure`` takes
        self.base_url = _checked_url(base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
        self.terms = Terms(self.base_url, timeout or Timeout(), retry or Retry(), clock)
        headers = {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "gzip, deflate",
            "user-agent": _user_agent(),
        }
        api_key = api_key or os.environ.get(KEY_VARIABLE, "")
        admin_key = admin_key or os.environ.get(ADMIN_KEY_VARIABLE, "").partition(",")[0]
        self._headers = headers | _authorization("api_key", api_key)
        self._admin_headers = headers | _authorization("admin_key", admin_key)

    def request(self, send: Send) -> dict[str, Any]:
        """A request by its parts: method, url, headers and content. Raises InvalidCall."""
        call = send.call
        headers = {
            **(self._admin_headers if call.as_admin else self._headers),
            "x-request-id": call.request_id,
        }
        content = None
        if call.body is not None:
            headers["content-type"] = "application/json"
            content = encoded(call.body)
        return {
            "method": call.method,
            "url": self.base_url + call.path,
            "headers": headers,
            "content": content,
        }

    def prepared(self, send: Send) -> httpx.Request:
        """The same as an httpx request: httpx's own way to build one takes as long as a fast reply."""
        request = self.request(send)
        answer_s = min(max(send.answer_s, _SHORTEST_S), _LONGEST_S)
        connect_s = min(max(send.connect_s, _SHORTEST_S), _LONGEST_S)
        timeout = {"connect": connect_s, "read": answer_s, "write": answer_s, "pool": connect_s}
        request["url"] = self._url(request["url"])
        return self._request(**request, extensions={"timeout": timeout})

    def left_s(self, send: Send) -> float:
        """Seconds that are left for an attempt.

        Raises:
            TimeoutError: none are.
        """
        left_s = send.until_s - self.terms.clock()
        if left_s <= 0:
            raise TimeoutError
        return min(left_s, _LONGEST_S)

    def failure(self, error: Exception, send: Send, response: httpx.Response | None) -> Failure:
        """What one of ``errors`` means; ``response`` where the reply had begun."""
        import httpx

        url = self.base_url + send.call.path
        reason = _readable(str(error).strip() or type(error).__name__)
        match error:
            case httpx.ConnectTimeout() | httpx.PoolTimeout():
                return Failure(connection_timeout(url, send.connect_s), was_sent=False)
            case httpx.ConnectError():
                return Failure(no_connection(url, reason), was_sent=False)
            case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
                return Failure(ConfigurationError(f"{url}: {reason}"), was_sent=False)
            case _ if response is None and _has_vanished(error):
                return Failure(broken_connection(url, "connection timed out"), was_sent=True)
            case TimeoutError() | httpx.TimeoutException():
                is_over = self.terms.clock() > send.until_s - _CLOCK_S
                waited_s = self.terms.timeout.total_s if is_over else send.answer_s
                return Failure(no_answer(url, waited_s), was_sent=True)
            case httpx.DecodingError():
                return Failure(UnexpectedReply(f"{url} answered what cannot be decompressed"), was_sent=True)
            case _ if response is None:
                return Failure(broken_connection(url, reason), was_sent=True)
        expected = response.headers.get("content-length")
        return Failure(cut_reply(url, response.num_bytes_downloaded, expected), was_sent=True)

    @contextmanager
    def reading(self, ranks: Ranks) -> Iterator[None]:
        """Errors while a stream is read, as ours; none after its end."""
        import httpx

        try:
            yield
        except httpx.StreamError:
            raise InvalidCall("a stream is read once, inside its with") from None
        except self.errors as error:
            if not ranks.are_whole:
                is_late = isinstance(error, TimeoutError | httpx.TimeoutException)
                raise ranks.stopped("sent nothing more in time" if is_late else "broke off") from None


def keepalive() -> list[tuple[int, int, int]]:
    """Socket options (level, name, value) with which a connection breaks some ten seconds after its other end
    vanished: a machine that is gone closes nothing, and a call would wait for its whole ``answer_s``.
    """
    probes = {getattr(socket, name, None): value for name, value in _PROBES.items()}
    options = [(socket.IPPROTO_TCP, name, value) for name, value in probes.items() if name is not None]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


def is_behind_proxy() -> bool:
    """Whether the environment names an HTTP proxy: httpx goes through it only with a transport of its own."""
    from urllib.request import getproxies  # as httpx

    return bool(getproxies())


def _checked_url(given: str) -> str:
    import httpx

    given = given.strip()
    try:
        url = httpx.URL(given)
        url.host.encode("idna")  # as sockets do
        is_http = url.scheme in ("http", "https") and bool(url.host) and 0 < (url.port or 80) < 65536
    except (httpx.InvalidURL, UnicodeError):
        is_http, url = False, httpx.URL()
    if "@" in given:
        raise ConfigurationError("base_url: a user and password in it are not sent; use api_key")
    if not is_http or url.query or url.fragment:
        raise ConfigurationError(f"base_url: {given!r} is no URL such as {DEFAULT_URL}")
    return _API_VERSION.sub("", given.rstrip("/"))


def _authorization(name: str, key: str) -> dict[str, str]:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(f"{name}: it has characters that no key has")
    return {"authorization": f"Bearer {key}"} if key else {}


def _user_agent() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"dear-client/{version('dear-serving')}"
    except PackageNotFoundError:
        return "dear-client"


def _has_vanished(error: BaseException) -> bool:
    """Whether the other end answered no probe: ETIMEDOUT, which httpx may report like a late reply."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _readable(reason: str) -> str:
    """``[Errno 111] Connection refused`` without its number; what asyncio says of several addresses."""
    if reason == "All connection attempts failed":
        return "connection refused or no route"
    return re.sub(r"^\[Errno -?\d+\] ", "", reason).lower()
