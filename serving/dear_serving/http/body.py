"""Request bodies: parsed strictly, validated with the field named; and JSON replies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from dear_serving.errors import InvalidRequest, UnsupportedMediaType
from dear_serving.gateway.caller import Caller
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.worker_process import Buffer
from dear_serving.http.arrival import receive_body
from dear_serving.ranking.neutralise import without_surrogates

Model = TypeVar("Model", bound=BaseModel)
T = TypeVar("T")

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_ADMIN_BYTES = 64 * 1024
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Parsing this much takes a few milliseconds; the way to the worker process and back takes about one.
_INLINE_BYTES = 256 * 1024
# What JSON becomes takes 60 to 240 bytes for a list or an object and 8 to 90 for another value. So a body's
# objects stay below 20 times its size, and the event loop reads them from the worker in milliseconds.
_MOST_VALUES, _MOST_LEVELS = 500_000, 100
_FREE_CONTAINERS, _BYTES_PER_CONTAINER = 1000, 16
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


async def read_json(request: Request, max_bytes: int, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The body as a JSON object; see read_parsed and parse_object.

    With ``may_be_empty`` no body at all is an empty object.
    """
    return await read_parsed(request, max_bytes, _parse_if_any if may_be_empty else parse_object)


async def read_parsed(request: Request, max_bytes: int, parse: Callable[[Buffer], T]) -> T:
    """The body as ``parse`` makes it; a large one is parsed in the gateway's worker process.

    Args:
        parse: a module's function or a functools.partial of one, such as ``partial(parse_as, Model)``; its
            result has to be picklable. It raises RequestError for what is wrong with the body.

    Raises:
        UnsupportedMediaType: a content type other than JSON is declared.
        PayloadTooLarge, BodyTimeout: see receive_body.
        WorkerUnavailable: the worker process died or took too long.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"the content type has to be application/json, not {kind[:80]}")
    body: Buffer | None = request.scope.get("state", {}).pop("body", None)  # the middleware read it
    if body is None:
        body = await receive_body(request, max_bytes)
    request.state.is_large = len(body) > _INLINE_BYTES
    if not request.state.is_large:
        return parse(body)
    gateway: GatewayState = request.app.state.gateway
    return await gateway.worker.run(_tenant_of(request), parse, body)


def parse_object(body: Buffer) -> dict[str, Any]:
    """A JSON object. NaN and Infinity are refused, lone surrogates become U+FFFD.

    Raises:
        InvalidRequest: not UTF-8, not JSON, or not an object, or one of too many parts or levels.
    """
    _check_structure(body)
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} ({where})") from None
    except ValueError as error:  # refused constants, numbers of thousands of digits
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body has to be a JSON object")
    if _ESCAPED_SURROGATE.search(body):
        return {_without_surrogates(key): _without_surrogates(value) for key, value in data.items()}
    return data


def parse_as(model: type[Model], body: Buffer) -> Model:
    """The body as ``model``; see parse_object and validate for the errors."""
    return validate(model, parse_object(body))


def validate(model: type[Model], data: dict[str, Any]) -> Model:
    """The body as ``model``.

    Raises:
        InvalidRequest: names the first field at fault.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Union branches add the branch's name to the path; callers know fields and positions alone.
        path = [str(step) for step in first["loc"] if _is_field(step)]
        field = ".".join(path) or None
        message = "unknown option" if first["type"] == "extra_forbidden" else first["msg"]
        message = "at least one is needed" if first["type"] == "too_short" else message
        message = message.removeprefix("Value error, ")
        raise InvalidRequest(f"{field}: {message}" if field else message, param=field) from None


@dataclass(frozen=True, slots=True, eq=False)
class BodyReader:
    """A dependency that reads a route's body as ``model``; the OpenAPI document publishes the same model.

    ``examples`` are bodies by what they show, where the model brings none. See read_json and validate for the
    errors.
    """

    model: type[BaseModel] | UnionType
    may_be_empty: bool = False
    examples: Mapping[str, Any] = field(default_factory=dict)

    async def __call__(self, request: Request) -> Any:
        """The body, small enough for an admin route."""
        data = await read_json(request, _ADMIN_BYTES, may_be_empty=self.may_be_empty)
        return validate(self.models[0], data)

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        """The models that a body may be of."""
        return get_args(self.model) or (self.model,)


async def encode_json(request: Request, content: Any) -> str:
    """JSON with every character outside ASCII escaped, so that any text can be sent back.

    The answer to a large request may hold its texts, so it is encoded off the event loop.
    """
    if not request.state.is_large:
        return _ENCODER.encode(content)
    gateway: GatewayState = request.app.state.gateway
    return await gateway.rerank.threads.run(_tenant_of(request), _encode_in_parts, content)


def json_reply(content: Any) -> Response:
    """A reply whose JSON is small; as by encode_json."""
    return Response(_ENCODER.encode(content), media_type="application/json")


def _encode_in_parts(content: Any) -> str:
    """As encode, which would hold Python's lock until all is done."""
    return "".join(_ENCODER.iterencode(content))


def _tenant_of(request: Request) -> str:
    caller: Caller | None = getattr(request.state, "caller", None)
    return caller.tenant.id if caller is not None else ""


def _is_field(step: int | str) -> bool:
    return isinstance(step, int) or (step.islower() and step not in {"str", "dict"} and "[" not in step)


def _parse_if_any(body: Buffer) -> dict[str, Any]:
    return parse_object(body) if body else {}


def _check_structure(body: Buffer) -> None:
    """Refuse JSON of more parts or levels than any request needs, before it becomes objects."""
    if body.count(b"[") + body.count(b"{") <= _MOST_LEVELS and body.count(b",") < _MOST_VALUES:
        return
    bare = _STRINGS.sub(b"", body)
    containers = bare.count(b"[") + bare.count(b"{")
    values, most = containers + bare.count(b","), _FREE_CONTAINERS + len(body) // _BYTES_PER_CONTAINER
    if containers > most or values > _MOST_VALUES:
        raise InvalidRequest(
            f"the body has {values} values, {containers} of them lists and objects; "
            f"the limits are {_MOST_VALUES} and, for its size, {most}"
        )
    level = 0
    for bracket in _BRACKETS.findall(bare):
        level += 1 if bracket in b"[{" else -1
        if level > _MOST_LEVELS:
            raise InvalidRequest(f"the body is nested too deeply, over {_MOST_LEVELS} levels")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value
