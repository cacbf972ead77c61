"""Errors to replies. The only place that shapes error bodies."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

from dear_serving import logs
from dear_serving.errors import MethodNotAllowed, RateLimited, RequestError, ShuttingDown, UnknownRoute
from dear_serving.http.dialects.table import dialect_of


class InternalError(RequestError):
    """A bug. The reply says only that; the log says where it is from."""

    code = "internal_error"


class ErrorDetail(BaseModel):
    """An error as OpenAI's clients read it."""

    message: str = Field(description="One sentence for people.")
    type: str = Field(description="The family, as OpenAI's: invalid_request_error and the like.")
    param: str | None = Field(description="The field at fault, dotted (documents.3), where there is one.")
    code: str | int | None = Field(
        description="Distinguishes errors of one status; each route lists its codes. A number: the status, "
        "where Google's clients read it."
    )


class ErrorBody(BaseModel):
    """Three shapes at once: OpenAI's clients read ``error``, Cohere's ``message``, Jina's ``detail``."""

    error: ErrorDetail
    message: str
    detail: str


def error_body(error: RequestError) -> dict[str, Any]:
    """The error as an ErrorBody, ready for JSON. The request's line in the log gets its code."""
    logs.note(error=error.code or error.type)
    detail = ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    return ErrorBody(error=detail, message=error.message, detail=error.message).model_dump()


def error_reply(error: RequestError, path: str = "") -> JSONResponse:
    """Status, body and, for errors worth a retry, Retry-After in whole seconds.

    On the path of one dialect alone the body has that dialect's own fields, too.
    """
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, RateLimited):
        headers |= error.headers
    if isinstance(error, ShuttingDown):
        headers["Connection"] = "close"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    dialect = dialect_of(path)
    own = dialect.error(error) if dialect else {}
    return JSONResponse({**error_body(error), **own}, error.status, headers)


async def on_request_error(request: Request, error: Exception) -> JSONResponse:
    """Handler for errors of dear_serving.errors."""
    assert isinstance(error, RequestError)
    return _refuse(request, error)


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Handler for unknown paths and methods, which the web framework refuses."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        reply = _refuse(request, MethodNotAllowed(f"{request.method} is not allowed on {request.url.path}"))
        reply.headers["Allow"] = ", ".join(sorted(_methods_of(request)))
        return reply
    return _refuse(request, UnknownRoute(f"there is no {request.url.path}"))


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """Handler for bugs; the middleware, which knows the request, logs them."""
    return _refuse(request, InternalError("internal error"))


def _refuse(request: Request, error: RequestError) -> JSONResponse:
    request.app.state.gateway.metrics.count_error(error)
    return error_reply(error, request.url.path)


def _methods_of(request: Request) -> set[str]:
    """The methods of a path over all of its routes; Starlette names those of one route."""
    matching = (one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE)
    return {method for route in matching for method in getattr(route, "methods", None) or ()}
