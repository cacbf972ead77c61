"""What every request passes first: request id, key, admission, and the timer."""

from __future__ import annotations

import contextlib
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dear_serving.errors import RequestError
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.access import REQUEST_ID, authorization_of, key_for
from dear_serving.http.arrival import receive_body
from dear_serving.http.errors import error_reply


class RequestMiddleware:
    """ASGI middleware: a place is held from the last byte of the body until the last byte of the answer, or
    until the client leaves. While bodies arrive they are bounded apart, so that slow ones hold no place."""

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
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})
        status = 499  # the client left before there was an answer
        caller: Caller | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                reply = MutableHeaders(scope=message)
                for name, value in (caller.headers if caller else {}).items():
                    reply[name] = value
                if not given:  # Ray's proxy, which names every request, also sends the name back
                    reply["x-request-id"] = request_id
            await send(message)

        route = _route_of(scope)
        held = contextlib.ExitStack()
        try:
            authorization = authorization_of(headers)
            if self._asks_for_tenant(scope["path"], authorization):
                tenant = await self._gateway.authenticator.identify(authorization)
                # Held until the reply's last byte, so that one revision answers the whole request.
                models = held.enter_context(self._gateway.catalog.hold())
                caller = scope["state"]["caller"] = Caller(tenant, request_id, models)
            await self._work(caller, scope, receive, send_with_id)
        except RequestError as error:
            await error_reply(error, scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # nobody is left to answer
        finally:
            held.close()
            metrics = self._gateway.metrics
            if caller is not None:
                metrics.count_request(caller.tenant.id, _outcome(status))
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - started_s)

    def _asks_for_tenant(self, path: str, authorization: str | None) -> bool:
        if path == "/metrics" and (
            self._gateway.settings.tenancy.open_metrics or self._gateway.is_admin(authorization)
        ):
            return False
        return key_for(path) == "tenant"

    async def _work(self, caller: Caller | None, scope: Scope, receive: Receive, send: Send) -> None:
        if caller is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        tenant, admission, metrics = caller.tenant, self._gateway.admission, self._gateway.metrics
        peers = self._gateway.peers
        self._gateway.drain.check_open()
        admission.check(tenant)  # while it would be refused, its body need not come
        peers.check(tenant)
        with self._gateway.arrivals.permit(tenant) as arrival, metrics.arriving.track_inprogress():
            max_bytes = self._gateway.settings.limits.max_body_bytes
            body = await receive_body(Request(scope, receive), max_bytes, arrival.grow)
        size, scope["state"]["body"] = len(body), body
        del body  # whoever parses it holds it
        with admission.permit(tenant, size), metrics.in_flight.track_inprogress():
            async with peers.place(tenant):
                caller.report(await self._gateway.budgets.spend_request(caller.tenant))
                await self._app(scope, receive, send)


def _outcome(status: int) -> str:
    if status == 429:
        return "limited"
    return "served" if status < 400 else "refused" if status < 500 else "failed"


def _route_of(scope: Scope) -> str:
    """The route's pattern, never the caller's path: labels must stay few."""
    for route in scope["app"].routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return str(route.path)
    return "none"
