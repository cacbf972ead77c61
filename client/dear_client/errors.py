"""Everything that can go wrong, as one tree. What a server says keeps the names of the server's own tree.

ClientError
├── ConfigurationError             what this client was given: URL, key, timeouts
├── InvalidCall                    arguments that need no server to be refused
├── ConnectionFailed               no connection, or it broke
│   └── ConnectionTimeout          none within ``Timeout.connect_s``
├── AnswerTimeout                  connected, and no answer in time
├── UnexpectedReply                something answered that does not speak this API
│   └── InvalidRanking             it does, and its order is none of the documents that were sent
└── ServerError                    the server said no; see ``status``, ``type``, ``param``, ``request_id``
    ├── InvalidRequest       400, 422
    │   ├── PayloadTooLarge  413
    │   ├── UnsupportedMediaType 415
    │   └── StagingFailed    422   an engine could not load or use an adapter after it was registered
    ├── InvalidKey           401
    ├── PermissionDenied     403
    ├── NotFound             404
    │   ├── UnknownModel           no model or adapter of that name that the caller may use
    │   ├── UnknownRoute           no such path
    │   └── UnknownSubject         no such tenant, key, adapter or revision
    ├── MethodNotAllowed     405
    ├── BodyTimeout          408
    ├── Conflict             409
    │   ├── AlreadyThere           what is to be created exists
    │   └── CapacityReached        the engines hold as many revisions as they may
    ├── Overloaded           429   retried, after ``retry_after_s``
    │   └── RateLimited            the tenant's own limit is spent
    ├── Unavailable          503   retried, after ``retry_after_s``
    │   ├── EngineUnavailable
    │   ├── GatewayUnavailable
    │   ├── RegistryUnavailable
    │   ├── ShuttingDown
    │   ├── StoreUnavailable
    │   └── WorkerUnavailable
    ├── DeadlineExceeded     504   the request's own deadline passed before anything was ranked
    └── InternalError        other 5xx
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors raised by this package. The message is one sentence meant for people.

    Attributes:
        request_id: the id that the request was sent with, for the server's logs; None where none was sent.
    """

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id


class ConfigurationError(ClientError):
    """The client was given something that cannot work."""


class InvalidCall(ClientError):
    """The arguments of one call are refused before anything is sent."""


class ConnectionFailed(ClientError):
    """There is no connection to the server, or it broke before the reply was whole."""


class ConnectionTimeout(ConnectionFailed):
    """No connection within ``Timeout.connect_s``."""


class AnswerTimeout(ClientError):
    """The server took the request and did not answer in time. Not retried: it may still be working on it."""


class UnexpectedReply(ClientError):
    """The reply is no JSON, or not of this API's shape."""


class InvalidRanking(UnexpectedReply):
    """The reply's order is no permutation of the documents, or its scores rise."""


class ServerError(ClientError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        type: the kind of error in OpenAI's words, such as ``invalid_request_error``.
        code: which error of that kind, such as ``model_not_found``.
        param: the request field at fault, dotted (``documents.3``), where there is one.
        retry_after_s: seconds after which the server says a retry may succeed.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(ServerError):
    """The request is wrong; ``param`` names the field."""


class PayloadTooLarge(InvalidRequest):
    """Body, document count or a document's length is over the server's limit."""


class UnsupportedMediaType(InvalidRequest):
    """The body was declared to be something other than JSON."""


class StagingFailed(InvalidRequest):
    """An adapter was registered, and then an engine could not load it or rank with it."""


class InvalidKey(ServerError):
    """No API key, or one that is unknown, expired or revoked."""


class PermissionDenied(ServerError):
    """The route is closed to everybody on this server."""


class NotFound(ServerError):
    """What is asked for does not exist, or not for this caller."""


class UnknownModel(NotFound):
    """No base model or adapter of that name that the caller may use."""


class UnknownRoute(NotFound):
    """No such path: another server, or an older one."""


class UnknownSubject(NotFound):
    """No tenant, key, grant, adapter or revision of that name."""


class MethodNotAllowed(ServerError):
    """The path exists, but not for this method."""


class BodyTimeout(ServerError):
    """The request's body did not reach the server in time."""


class Conflict(ServerError):
    """The request conflicts with the present state."""


class AlreadyThere(Conflict):
    """What is to be created exists."""


class CapacityReached(Conflict):
    """The engines hold as many revisions as they may."""


class Overloaded(ServerError):
    """More work is queued than the server takes on."""


class RateLimited(Overloaded):
    """The tenant is over its own limit."""


class Unavailable(ServerError):
    """A part of the server is down, starting or restarting."""


class EngineUnavailable(Unavailable):
    """No engine can take the work now."""


class GatewayUnavailable(Unavailable):
    """The gateway that worked on the request died."""


class ShuttingDown(Unavailable):
    """The server ends; the next one, or another, answers."""


class RegistryUnavailable(Unavailable):
    """The registry's database does not answer now."""


class StoreUnavailable(Unavailable):
    """The store of adapters cannot be read or written now."""


class WorkerUnavailable(Unavailable):
    """The process that reads large bodies died or took too long."""


class DeadlineExceeded(ServerError):
    """The request's deadline passed before anything was decided."""


class InternalError(ServerError):
    """A fault of the server, or of a proxy before it."""


_BY_STATUS: dict[int, type[ServerError]] = {
    400: InvalidRequest,
    401: InvalidKey,
    403: PermissionDenied,
    404: NotFound,
    405: MethodNotAllowed,
    408: BodyTimeout,
    409: Conflict,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: InvalidRequest,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}

_BY_CODE: dict[str, tuple[int, type[ServerError]]] = {
    "payload_too_large": (413, PayloadTooLarge),
    "unsupported_media_type": (415, UnsupportedMediaType),
    "adapter_failed": (422, StagingFailed),
    "invalid_api_key": (401, InvalidKey),
    "permission_denied": (403, PermissionDenied),
    "model_not_found": (404, UnknownModel),
    "route_not_found": (404, UnknownRoute),
    "subject_not_found": (404, UnknownSubject),
    "method_not_allowed": (405, MethodNotAllowed),
    "body_timeout": (408, BodyTimeout),
    "already_exists": (409, AlreadyThere),
    "capacity_reached": (409, CapacityReached),
    "overloaded": (429, Overloaded),
    "rate_limit_exceeded": (429, RateLimited),
    "engine_unavailable": (503, EngineUnavailable),
    "gateway_unavailable": (503, GatewayUnavailable),
    "shutting_down": (503, ShuttingDown),
    "registry_unavailable": (503, RegistryUnavailable),
    "store_unavailable": (503, StoreUnavailable),
    "worker_unavailable": (503, WorkerUnavailable),
    "deadline_exceeded": (504, DeadlineExceeded),
}


def server_error(
    status: int | None,
    body: Mapping[str, Any],
    *,
    retry_after_s: float | None = None,
    request_id: str | None = None,
) -> ServerError:
    """The error in a reply: by its ``code`` where that is known, else by its status.

    Args:
        status: from 300 on; None in the middle of a stream, where the code alone says which error it is.
        body: the reply's JSON object. Where another server wrote it, whatever sentence it holds is taken.
    """
    error = body.get("error")
    fields = error if isinstance(error, Mapping) else {}
    said = next((one for one in _sentences(body, fields) if isinstance(one, str) and one), None)
    code = fields.get("code") if isinstance(fields.get("code"), str) else None
    usual, named = _BY_CODE.get(code or "", (500, ServerError))
    status = usual if status is None else status
    kind = _BY_STATUS.get(status, InternalError if status >= 500 else ServerError)
    return (named if issubclass(named, kind) else kind)(
        said or f"HTTP {status} without a reason",
        status=status,
        type=_text(fields.get("type")),
        code=code,
        param=_text(fields.get("param")),
        retry_after_s=retry_after_s,
        request_id=request_id,
    )


def _sentences(body: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[object]:
    """Where servers of this kind put what went wrong."""
    yield fields.get("message")
    yield from (body.get(name) for name in ("message", "detail", "error"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
