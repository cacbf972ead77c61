"""What runs in Ray Serve's HTTP proxy, in front of every gateway: limits of headers, replies where no gateway
runs or one died, and a second port.

Ray calls ``middlewares`` as its proxy starts, named in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import asyncio
import os
import socket
from http import HTTPStatus

import uvicorn.protocols.http.auto
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dear_serving.errors import GatewayUnavailable, SettingsError
from dear_serving.http.access import REQUEST_ID
from dear_serving.http.errors import error_reply
from dear_serving.settings import ADMIN_PORT_VARIABLE

_MOST_HEADERS, _MOST_HEADER_BYTES = 100, 64 * 1024
_HEADERS_S = 20.0
_RETRY_AFTER_S = 1.0
_BACKLOG = 2048  # uvicorn's own
_SCRAPE_S = 6.0  # less than a Prometheus waits, more than a gateway takes for its answer


def middlewares() -> list[Middleware]:
    """Limit the headers of the proxy's server, and return what every request passes in the proxy."""
    # The proxy takes neither a protocol nor limits for its uvicorn, whose "auto" is looked up when it starts.
    uvicorn.protocols.http.auto.AutoHTTPProtocol = LimitedProtocol
    if os.environ.get(ADMIN_PORT_VARIABLE):
        uvicorn.Server = TwoPorts  # type: ignore[misc]  # Ray's proxy makes one server, on one port
    return [Middleware(ReadableHeaders), Middleware(AlwaysAnswered), Middleware(ScrapesEnd)]


class TwoPorts(uvicorn.Server):
    """A server that listens on the admin port as well. Gateways see in the ASGI scope which port it was."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # Here and not at startup: a constructor's error is one of the proxy, which ends the start.
        self._admin = listen(config.host, os.environ[ADMIN_PORT_VARIABLE])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        assert sockets is not None  # Ray's proxy binds its own
        await super().startup([*sockets, self._admin])


def listen(host: str, port: str) -> socket.socket:
    """A socket for the admin port.

    Raises:
        SettingsError: it is no port, or taken.
    """
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise SettingsError(f"{ADMIN_PORT_VARIABLE}: {port} is no port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise SettingsError(f"http.admin_port: cannot listen on {host}:{port}: {reason}") from None


class ReadableHeaders:
    """ASGI middleware: leaves out headers that Ray's proxy could not decode, which would be a 500.

    A request id that is not well formed is left out too, and Ray gives the request a new one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if "headers" in scope:
            scope["headers"] = [
                (name, value) for name, value in scope["headers"] if _is_readable(name, value)
            ]
        await self._app(scope, receive, send)


def _is_readable(name: bytes, value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return name != b"x-request-id" or REQUEST_ID.fullmatch(text) is not None


class AlwaysAnswered:
    """ASGI middleware: a request that Ray's proxy gives no reply to, since its gateway died, is a 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_answered = False

        async def watch(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        await self._app(scope, receive, watch)
        if scope["type"] == "http" and not is_answered:
            died = GatewayUnavailable(
                "the gateway died while it worked on this", retry_after_s=_RETRY_AFTER_S
            )
            await error_reply(died)(scope, receive, send)


class ScrapesEnd:
    """ASGI middleware: /metrics is a 503 while no gateway runs. Ray's proxy has a 404 of its own before it
    knows of our application, and then lets requests wait for the first gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] != "/metrics":
            await self._app(scope, receive, send)
            return
        begun, is_open = asyncio.Event(), True

        async def watch(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start" and not begun.is_set():
                is_open = is_open and not _is_rays_own_404(message)
                begun.set()
            if is_open:
                await send(message)

        working = asyncio.ensure_future(self._app(scope, receive, watch))
        beginning = asyncio.ensure_future(begun.wait())
        try:
            await asyncio.wait({working, beginning}, timeout=_SCRAPE_S, return_when=asyncio.FIRST_COMPLETED)
            is_open = is_open and (begun.is_set() or working.done())
            if is_open:
                await working
                return
        finally:
            for one in (working, beginning):
                one.cancel()
        late = GatewayUnavailable("no gateway runs yet", retry_after_s=_RETRY_AFTER_S)
        await error_reply(late)(scope, receive, send)


def _is_rays_own_404(message: Message) -> bool:
    kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
    return message["status"] == 404 and not any(b"json" in kind for kind in kinds)


class LimitedProtocol(HttpToolsProtocol):
    """Ends connections whose headers are too many (431), too large (431) or do not come."""

    _timer: asyncio.TimerHandle | None = None
    _awaits_headers = True
    _count = _parsed = _arrived = 0  # headers, and their bytes
    _is_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self._awaits_headers and not self.transport.is_closing():
            self._arrived += len(data)  # it was all headers
            if self._arrived > _MOST_HEADER_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        """See httptools."""
        self._await_headers()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._count += 1
        self._parsed += len(name) + len(value)
        if self._count > _MOST_HEADERS or self._parsed > _MOST_HEADER_BYTES:
            self._is_too_large = True
            raise ValueError("the headers are too large")  # the parser stops, and send_400_response is called
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._awaits_headers = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """A 431 if the headers are too large."""
        if self._is_too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _await_headers(self) -> None:
        self._stop_timer()
        self._awaits_headers = True
        self._count = self._parsed = self._arrived = 0
        self._timer = self.loop.call_later(_HEADERS_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self) -> None:
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        lines = (f"HTTP/1.1 {status.value} {status.phrase}", "connection: close", "content-length: 0", "", "")
        self.transport.write("\r\n".join(lines).encode())
        self.transport.close()
