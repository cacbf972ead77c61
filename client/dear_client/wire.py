"""What both clients share about httpx: where requests go, with what headers, and what its errors mean.

httpx is imported when a client is made: it takes nearly as long as the rest of the package together.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dear_client.errors import ClientError, ConfigurationError
from dear_client.events import Ranks
from dear_client.exchange import (
    Failure,
    Send,
    Terms,
    broken_connection,
    connection_timeout,
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


class Wire:
    """Turns steps into httpx's requests and its errors into ours.

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

        self.limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._timeout = httpx.Timeout
        given = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        self.base_url = _checked_url(given)
        self.terms = Terms(self.base_url, timeout or Timeout(), retry or Retry(), clock)
        self._headers = {"accept": "application/json, text/event-stream", "user-agent": _user_agent()}
        api_key = api_key or os.environ.get(KEY_VARIABLE) or None
        admin_key = admin_key or os.environ.get(ADMIN_KEY_VARIABLE, "").partition(",")[0].strip() or None
        self._authorization = _authorization("api_key", api_key)
        self._admin_authorization = _authorization("admin_key", admin_key)

    def request(self, send: Send) -> dict[str, Any]:
        """Arguments of httpx's ``stream`` or ``build_request``."""
        call = send.call
        headers = self._headers | (self._admin_authorization if call.as_admin else self._authorization)
        headers["x-request-id"] = call.request_id
        content = None
        if call.body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(call.body, separators=(",", ":")).encode()
        timeout = self._timeout(max(send.answer_s, 1e-3), connect=max(send.connect_s, 1e-3))
        return {
            "method": call.method,
            "url": self.base_url + call.path,
            "headers": headers,
            "content": content,
            "timeout": timeout,
        }


def failure(error: httpx.HTTPError, send: Send, url: str, response: httpx.Response | None) -> Failure:
    """What an error of httpx's means; ``response`` where the reply had begun."""
    import httpx

    reason = str(error).strip() or type(error).__name__
    said: ClientError
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return Failure(connection_timeout(url, send.connect_s), was_sent=False)
        case httpx.ConnectError():
            return Failure(no_connection(url, _readable(reason)), was_sent=False)
        case httpx.TimeoutException():
            said = no_answer(url, send.answer_s)
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return Failure(ConfigurationError(f"{url}: {reason}"), was_sent=False)
        case httpx.TransportError() if response is not None:
            received, expected = response.num_bytes_downloaded, response.headers.get("content-length")
            said = broken_connection(url, received or 1, expected)
        case _:
            said = broken_connection(url, 0, None)
    return Failure(said, was_sent=True)


@contextmanager
def reading(ranks: Ranks) -> Iterator[None]:
    """What goes wrong while a stream is read, in our errors."""
    import httpx

    try:
        yield
    except httpx.TimeoutException:
        raise ranks.stopped("sent nothing more in time") from None
    except httpx.TransportError:
        raise ranks.stopped("closed the connection") from None


def _checked_url(given: str) -> str:
    import httpx

    try:
        url = httpx.URL(given)
        is_http = url.scheme in ("http", "https") and bool(url.host)
    except httpx.InvalidURL:
        is_http = False
    if not is_http:
        raise ConfigurationError(f"base_url: {given!r} is no URL such as {DEFAULT_URL}")
    return _API_VERSION.sub("", given.rstrip("/"))


def _authorization(name: str, key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(f"{name}: it has characters that no key has")
    return {"authorization": f"Bearer {key.strip()}"}


def _user_agent() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"dear-client/{version('dear-serving')}"
    except PackageNotFoundError:
        return "dear-client"


def _readable(reason: str) -> str:
    """``[Errno 111] Connection refused`` without its number; what asyncio says of several addresses."""
    if reason == "All connection attempts failed":
        return "connection refused or no route"
    return re.sub(r"^\[Errno -?\d+\] ", "", reason).lower()
