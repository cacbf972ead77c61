"""The OpenAPI document: FastAPI's, with the bodies, keys and errors that FastAPI does not see.

Bodies are read within a byte limit (body.py), the middleware checks keys (access.py), and errors become
replies in one place (errors.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_standalone_docs import StandaloneDocs
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from dear_serving import __version__
from dear_serving.errors import (
    BodyTimeout,
    GatewayUnavailable,
    InvalidKey,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    RegistryUnavailable,
    RequestError,
    ShuttingDown,
    UnsupportedMediaType,
    WorkerUnavailable,
)
from dear_serving.http.access import key_for
from dear_serving.http.body import BodyReader
from dear_serving.http.errors import ErrorBody

WARNINGS = "X-Dear-Warnings"
"""The header with the warnings of a reply that has no place for them."""

_SCHEMAS = "#/components/schemas/"

ABOUT: dict[str, Any] = {
    "title": "dear-serving",
    "version": __version__,
    "summary": "Listwise reranking with LoRA adapters.",
    "description": (
        "One server for the clients of OpenAI and of every common rerank API. "
        "Every error has one body; the codes of a status are listed with it."
    ),
}
_TAGS = [
    {"name": "rerank", "description": "Order passages by a query, in the dialect the client speaks."},
    {"name": "openai", "description": "Models, chat and completions, answered by vLLM."},
    {"name": "tenants", "description": "Tenants, keys, grants and the audit trail, with the admin key."},
    {"name": "adapters", "description": "LoRA adapters and their revisions, with the admin key."},
    {"name": "replicas", "description": "Gateways and engines that run, with the admin key."},
    {"name": "health", "description": "Health, readiness and metrics."},
]

_ERRORS_OF_KEYS: dict[str | None, tuple[type[RequestError], ...]] = {
    None: (),
    "tenant": (InvalidKey, RegistryUnavailable),
    # A path can hold a text that the registry cannot store: 400.
    "admin": (InvalidRequest, InvalidKey, PermissionDenied, RegistryUnavailable),
}
_ERRORS_OF_BODIES = (InvalidRequest, PayloadTooLarge, UnsupportedMediaType, BodyTimeout)
_ERRORS_OF_LIMITS = (Overloaded, RateLimited, WorkerUnavailable, GatewayUnavailable, ShuttingDown)

_LIMIT_HEADERS = [
    f"x-ratelimit-{what}-{kind}"
    for kind in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
]
_TEXT = {"schema": {"type": "string"}}
_COMPONENTS: dict[str, Any] = {
    "securitySchemes": {
        "tenant": {
            "type": "http",
            "scheme": "bearer",
            "description": (
                "A tenant's API key; the header `Api-Key` may have it instead. Servers with `tenancy.open` "
                "answer without one, too."
            ),
        },
        "admin": {"type": "http", "scheme": "bearer", "description": "The server's `DEAR_ADMIN_KEY`."},
    },
    "parameters": {
        "X-Request-ID": {
            "name": "X-Request-ID",
            "in": "header",
            "description": "An id for logs: 1 to 128 letters, digits, `_ . : -`. Others are replaced.",
            **_TEXT,
        }
    },
    "headers": {
        "X-Request-ID": {"description": "The id of a request that came without one.", **_TEXT},
        WARNINGS: {"description": "A JSON list of sentences, where the reply has no `meta`.", **_TEXT},
        "Retry-After": {"description": "Seconds until a retry may succeed.", **_TEXT},
        **{
            name: {"description": "Only for tenants with such a limit a minute; as OpenAI's.", **_TEXT}
            for name in _LIMIT_HEADERS
        },
    },
}


def errors(*kinds: type[RequestError]) -> dict[int | str, dict[str, Any]]:
    """A route's own errors, as the ``responses`` argument of its decorator.

    Those of keys, bodies and limits are not named there: ``document`` adds them.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        reply = found.setdefault(kind.status, {"description": "", "x-codes": []})
        summary = (inspect.getdoc(kind) or "").partition("\n")[0]
        reply["description"] += f"- `{kind.code}`: {summary}\n" if kind.code else f"{summary}\n"
        reply["x-codes"].append(kind.code)
    return found


def publish(app: FastAPI) -> None:
    """Serve the document and its pages, which need no internet."""

    def openapi() -> dict[str, Any]:
        app.openapi_schema = app.openapi_schema or document(app.routes)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's own page on extending it does
    StandaloneDocs(app)


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """The document of these routes."""
    found: dict[str, Any] = get_openapi(**ABOUT, tags=_TAGS, routes=routes)
    components = found["components"]
    models: set[type[BaseModel]] = {ErrorBody}
    components |= _COMPONENTS | {"responses": {}}
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        reader = _reader_of(route)
        models |= set(reader.models) if reader else set()
        for method in route.methods:
            operation = found["paths"][route.path_format][method.lower()]
            operation["operationId"] = route.name
            operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/X-Request-ID"})
            _add_shared(operation, route.path, method, reader)
            _share_errors(operation["responses"], components["responses"])
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template=_SCHEMAS + "{model}",
    )
    of_fastapi = {"HTTPValidationError", "ValidationError"}  # its own errors, which no route gives
    named = {name: one for name, one in components["schemas"].items() if name not in of_fastapi}
    components["schemas"] = _untitled(dict(sorted((named | schemas["$defs"]).items())))
    found["paths"] = _untitled(found["paths"])
    return found


def _untitled(value: Any) -> Any:
    """Without pydantic's titles, which repeat every name."""
    if isinstance(value, list):
        return [_untitled(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: inner if name in ("example", "examples") else _untitled(inner)
        for name, inner in value.items()
        if name != "title" or not isinstance(inner, str)
    }


def _reader_of(route: APIRoute) -> BodyReader | None:
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return next((call for call in calls if isinstance(call, BodyReader)), None)


def _add_shared(operation: dict[str, Any], path: str, method: str, reader: BodyReader | None) -> None:
    """Add the key, the body and the errors that middleware and body reader bring."""
    key = key_for(path)
    replies = operation["responses"]
    if "x-codes" not in replies.get("422", {}):
        replies.pop("422", None)  # FastAPI's own
    kinds = _ERRORS_OF_KEYS[key]
    success = ["X-Request-ID"]
    if reader:
        operation["requestBody"] = _request_body(reader)
        kinds += _ERRORS_OF_BODIES
    if key == "tenant" and method == "POST":
        kinds += _ERRORS_OF_LIMITS
        success += _LIMIT_HEADERS
    if "rerank" in operation["tags"]:
        success.append(WARNINGS)
    for reply in replies.values():
        if "x-codes" not in reply:
            reply["headers"] = _references("headers", success)
    for status, shared in errors(*dict.fromkeys(kinds)).items():
        reply = replies.setdefault(str(status), {"description": "", "x-codes": []})
        reply["description"] += shared["description"]
        reply["x-codes"] += shared["x-codes"]
    if key:
        # With the admin key, /metrics shows every tenant's.
        operation["security"] = [{key: []}, *([{"admin": []}] if path == "/metrics" else [])]


def _request_body(reader: BodyReader) -> dict[str, Any]:
    schemas = [{"$ref": _SCHEMAS + model.__name__} for model in reader.models]
    content: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    if reader.examples:
        content["examples"] = {name: {"value": value} for name, value in reader.examples.items()}
    return {"required": not reader.may_be_empty, "content": {"application/json": content}}


def _share_errors(replies: dict[str, Any], shared: dict[str, Any]) -> None:
    """Move the errors among the replies to ``shared``, named after their codes."""
    for status, reply in sorted(replies.items()):
        del replies[status]
        if "x-codes" in reply:
            name = "-".join(code or "invalid_request" for code in reply["x-codes"])
            names = ["X-Request-ID"]
            names += ["Retry-After"] if status in ("429", "503") else []
            names += _LIMIT_HEADERS if status == "429" else []
            content = {"application/json": {"schema": {"$ref": _SCHEMAS + ErrorBody.__name__}}}
            shared[name] = reply | {"content": content, "headers": _references("headers", names)}
            reply = {"$ref": f"#/components/responses/{name}"}
        replies[status] = reply


def _references(kind: str, names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/{kind}/{name}"} for name in names}
