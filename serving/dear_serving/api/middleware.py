"""The door every request passes: id, key, a place to work in, and the clock."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dear_serving.api.auth import check_key
from dear_serving.api.failures import error_reply
from dear_serving.api.gateway import GatewayState
from dear_serving.errors import RequestError

_OPEN_PATHS = {"/health", "/ready"}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Door:
    """ASGI middleware, so that places are held until the last byte of a stream, or until the client left."""

    def __init__(self, app: ASGIApp, gateway: GatewayState) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started_s = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 499  # the client left before there was an answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not given:  # Ray's proxy, which names every request, also sends the name back
                    MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        route = _route_of(scope)
        try:
            if scope["path"] not in _OPEN_PATHS:
                check_key(headers.get("authorization"), self._gateway.key_digests)
            await self._work(scope, receive, send_with_id)
        except RequestError as error:
            await error_reply(error)(scope, receive, send_with_id)
        finally:
            metrics = self._gateway.metrics
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - started_s)

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        with (
            self._gateway.admission.permit(),
            self._gateway.metrics.in_flight.track_inprogress(),
        ):
            await self._app(scope, receive, send)


def _route_of(scope: Scope) -> str:
    """The route's pattern, never the caller's path: labels must stay few."""
    for route in scope["app"].routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return str(route.path)
    return "none"
