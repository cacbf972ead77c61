"""Refuses requests to a name that is not the server's."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dear_serving.errors import InvalidRequest
from dear_serving.gateway.state import GatewayState
from dear_serving.http.errors import error_reply
from dear_serving.settings import is_loopback

_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[\w.-]+?))\.?(?::\d{1,5})?", re.ASCII)


class TrustedHost:
    """ASGI middleware for http.allowed_hosts. Starlette's own reads no IPv6 addresses."""

    def __init__(self, app: ASGIApp, gateway: GatewayState) -> None:
        http = gateway.settings.http
        self._app = app
        self._allowed = None if http.allowed_hosts is None else [one.lower() for one in http.allowed_hosts]
        self._loopback_alone = gateway.authenticator.open_access and is_loopback(http.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and not self._is_trusted(Headers(scope=scope).get("host", "")):
            message = "the server does not answer to this Host; its operator can add it to http.allowed_hosts"
            await error_reply(InvalidRequest(message, param="Host"))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_trusted(self, header: str) -> bool:
        if self._allowed is None and not self._loopback_alone:
            return True
        match = _HOST.fullmatch(header.lower())
        host = (match["ipv6"] or match["name"]) if match else ""
        if self._allowed is None:
            return is_loopback(host)
        return any(fnmatchcase(host, pattern) for pattern in self._allowed)
