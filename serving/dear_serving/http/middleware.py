"""What every request passes first: request id, key, admission, timer, span, line in the log."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dear_serving import logs, tracing
from dear_serving.errors import RequestError, UnknownRoute
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.http.access import ASSETS_ROUTE, REQUEST_ID, authorization_of, is_on_port, key_for
from dear_serving.http.arrival import receive_body
from dear_serving.http.errors import InternalError, error_reply

logger = logging.getLogger(__name__)

_OF_NO_NOTE = ("/health", "/ready", "/metrics", ASSETS_ROUTE)


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
        facts: logs.Facts = {"request_id": request_id, "method": scope["method"], "route": route}
        held = contextlib.ExitStack()
        held.enter_context(logs.About(facts))
        span = self._span(facts, headers)
        if span is not tracing.NO_SPAN:
            held.enter_context(span)
        port = (scope.get("server") or ("", None))[1]  # of the socket, whatever the caller writes
        admin_port = self._gateway.settings.http.admin_port
        try:
            if not is_on_port(scope["path"], port, admin_port):
                raise UnknownRoute(f"there is no {scope['path']} on this port")
            may_see_all = admin_port in (None, port)
            authorization = authorization_of(headers)
            if self._asks_for_tenant(scope["path"], authorization, may_see_all):
                tenant = await self._gateway.authenticator.identify(authorization)
                # Held until the reply's last byte, so that one revision answers the whole request.
                models = held.enter_context(self._gateway.catalog.hold())
                caller = scope["state"]["caller"] = Caller(tenant, request_id, models, arrived_s=started_s)
                facts["tenant"] = tenant.id
            await self._work(caller, scope, receive, send_with_id)
        except RequestError as error:
            self._gateway.metrics.count_error(error)
            await error_reply(error, scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # nobody is left to answer
        except Exception as error:
            status, facts["error"] = 500, InternalError.type
            logger.error("unexpected error", exc_info=error)
            raise
        finally:
            took_s = time.monotonic() - started_s
            self._report(span, facts, status, took_s, headers)
            held.close()
            metrics = self._gateway.metrics
            if caller is not None:
                metrics.count_request(caller.tenant.id, _outcome(status))
            metrics.requests.labels(route, str(status)).inc()
            metrics.request_seconds.labels(route, _outcome(status)).observe(took_s)

    def _span(self, facts: logs.Facts, headers: Headers) -> tracing.NoSpan:
        """The request's span; probes, scrapes and files of a page have none."""
        tracer = self._gateway.tracer
        if tracer is None or facts["route"] in _OF_NO_NOTE:
            return tracing.NO_SPAN
        return tracer.begin(f"{facts['method']} {facts['route']}", headers)

    def _report(
        self, span: tracing.NoSpan, facts: logs.Facts, status: int, took_s: float, headers: Headers
    ) -> None:
        """All that was noted of the request, into its span and its line in the log."""
        facts["status"] = status
        facts["total_ms"] = took_s * 1e3
        if span is not tracing.NO_SPAN:
            span.set(**facts)
            if status >= 500:
                span.fail(str(facts.get("error", status)))
        if facts["route"] not in _OF_NO_NOTE or status >= 400:
            facts["trace_id"] = span.trace_id or tracing.trace_id_in(headers)
            logs.write("request", facts)

    def _asks_for_tenant(self, path: str, authorization: str | None, may_see_all: bool) -> bool:
        if (
            path == "/metrics"
            and may_see_all
            and (self._gateway.settings.tenancy.open_metrics or self._gateway.is_admin(authorization))
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
            admitting = tracing.span("admit request")
            try:
                async with peers.place(tenant):
                    caller.report(await self._gateway.budgets.spend_request(caller.tenant))
                    admitting.end()
                    await self._app(scope, receive, send)
            finally:
                admitting.end()


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
