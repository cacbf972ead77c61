"""The OpenAPI document: FastAPI's, and what the signatures of the routes do not say.

Bodies are read within a limit of their own (body.py), keys are asked for by the middleware (access.py) and
errors are made in one place (errors.py), so FastAPI knows of none of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from dear_serving.errors import (
    BodyTimeout,
    InvalidKey,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    RegistryUnavailable,
    RequestError,
    UnsupportedMediaType,
)
from dear_serving.http.access import key_for
from dear_serving.http.body import BodyReader
from dear_serving.http.errors import ErrorBody

_SCHEMAS = "#/components/schemas/"

_ERRORS_OF_KEYS: dict[str | None, tuple[type[RequestError], ...]] = {
    None: (),
    "tenant": (InvalidKey, RegistryUnavailable),
    "admin": (InvalidKey, PermissionDenied, RegistryUnavailable),
}
_ERRORS_OF_BODIES = (InvalidRequest, PayloadTooLarge, UnsupportedMediaType, BodyTimeout)
_ERRORS_OF_LIMITS = (Overloaded, RateLimited)

_SECURITY_SCHEMES = {
    "tenant": {
        "type": "http",
        "scheme": "bearer",
        "description": "A tenant's API key. Servers with `tenancy.open` also take requests without one.",
    },
    "admin": {"type": "http", "scheme": "bearer", "description": "The server's `DEAR_ADMIN_KEY`."},
}
_HEADERS = {
    "X-Request-ID": "The request's id, where the caller gave none; a proxy may send the caller's back.",
    "Retry-After": "Seconds until a retry may succeed.",
} | {
    f"x-ratelimit-{what}-{kind}": f"{text}, for tenants with a limit of {kind} a minute."
    for kind in ("requests", "tokens")
    for what, text in (("limit", "The limit"), ("remaining", "What is left"), ("reset", "When it is whole"))
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "An id for logs and traces: 1 to 128 letters, digits, `_ . : -`; others are replaced.",
    "schema": {"type": "string"},
}


def errors(*kinds: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """What a route publishes of its own errors: the ``responses`` argument of its decorator.

    Those of keys, bodies and limits are not named: ``document`` adds them.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        _add_error(found.setdefault(kind.status, {}), kind)
    return found


def document(routes: Sequence[BaseRoute], **info: Any) -> dict[str, Any]:
    """The document of these routes; ``info`` is what get_openapi takes besides."""
    found: dict[str, Any] = get_openapi(routes=routes, **info)
    readers = []
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            path = found["paths"][route.path_format]
            path["parameters"] = [_REQUEST_ID]
            for method in route.methods:
                reader = next(_readers(route), None)
                _complete(path[method.lower()], route.path, method, reader)
                readers += [reader] if reader else []
    models = {reader.model for reader in readers} | {ErrorBody}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=_SCHEMAS + "{model}",
    )
    components = found["components"]
    components["schemas"] = dict(sorted((components["schemas"] | schemas["$defs"]).items()))
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    }
    components["securitySchemes"] = _SECURITY_SCHEMES
    return found


def _readers(route: APIRoute) -> Iterator[BodyReader]:
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, BodyReader):
            yield dependency.call


def _complete(operation: dict[str, Any], path: str, method: str, reader: BodyReader | None) -> None:
    """Add body, key, errors and headers to one operation."""
    key = key_for(path)
    limited = key == "tenant" and method == "POST"
    replies = operation["responses"]
    if "HTTPValidationError" in str(replies.get("422")):  # FastAPI's own, which cannot happen here
        del replies["422"]
    shared = _ERRORS_OF_KEYS[key]
    if reader:
        shared += _ERRORS_OF_BODIES
        operation["requestBody"] = _request_body(reader)
    if limited:
        shared += _ERRORS_OF_LIMITS
    for kind in shared:
        _add_error(replies.setdefault(str(kind.status), {}), kind)
    if key:
        operation["security"] = [{key: []}]
    operation["responses"] = dict(sorted(replies.items()))
    for status, reply in replies.items():
        names = ["X-Request-ID"]
        names += [
            name
            for name in _HEADERS
            if name.startswith("x-ratelimit") and limited and status in ("200", "429")
        ]
        names += ["Retry-After"] if status in ("429", "503") else []
        reply["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _request_body(reader: BodyReader) -> dict[str, Any]:
    schema = {"$ref": _SCHEMAS + reader.model.__name__}
    return {"required": not reader.may_be_empty, "content": {"application/json": {"schema": schema}}}


def _add_error(reply: dict[str, Any], kind: type[RequestError]) -> None:
    said = (inspect.getdoc(kind) or "").partition("\n")[0]
    line = f"`{kind.code}`: {said}" if kind.code else said
    reply["description"] = "\n\n".join(filter(None, [reply.get("description"), line]))
    reply["content"] = {"application/json": {"schema": {"$ref": _SCHEMAS + ErrorBody.__name__}}}
