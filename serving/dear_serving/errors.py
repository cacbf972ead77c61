"""All errors of the server, as one tree; each request error carries its HTTP status.

DearError
├── StartupError                       the process ends with one sentence, exit code 1
│   ├── SettingsError                  a wrong or missing setting
│   └── InvalidAdapterFiles            adapter files do not fit the base model; found by reading the files
├── AdapterNotLoadable                 the files passed the checks, but an engine cannot load them
└── RequestError                       becomes a reply, in http/errors.py only
    ├── InvalidRequest       400       the request itself; `param` names the field
    ├── PayloadTooLarge      413
    ├── UnsupportedMediaType 415
    ├── InvalidKey           401
    ├── PermissionDenied     403
    ├── UnknownModel         404
    ├── UnknownRoute         404
    ├── UnknownSubject       404       of the admin routes: a tenant, a key, an adapter
    ├── MethodNotAllowed     405
    ├── BodyTimeout          408       the body did not arrive in time
    ├── AlreadyThere         409
    ├── CapacityReached      409       the engines hold as many revisions as `adapters.capacity` allows
    ├── StagingFailed        422       an adapter was registered, but an engine could not load or use it
    ├── Overloaded           429       retryable, after `retry_after_s`
    │   └── RateLimited                a tenant's own limit; `headers` show the remaining budget
    ├── EngineUnavailable    503       retryable, after `retry_after_s`
    ├── RegistryUnavailable  503       retryable, after `retry_after_s`
    ├── WorkerUnavailable    503       retryable, after `retry_after_s`
    ├── StoreUnavailable     503       retryable, after `retry_after_s`
    ├── GatewayUnavailable   503       retryable; the gateway that had the request died
    ├── ShuttingDown         503       retryable, on another server
    └── DeadlineExceeded     504       retryable
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class DearError(Exception):
    """Base of all errors raised by this server. The message is one sentence for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # Engine replicas raise these across processes; pickle by itself loses keyword-only arguments.
        return _rebuild, (type(self), self.args, vars(self))


def _rebuild(kind: type[DearError], args: tuple[object, ...], state: dict[str, object]) -> DearError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class StartupError(DearError):
    """The server cannot start as configured."""


class SettingsError(StartupError):
    """A setting is wrong, missing or unknown."""


class InvalidAdapterFiles(StartupError):
    """An adapter's files do not fit the configured base model; found by reading the files."""


class AdapterNotLoadable(DearError):
    """An engine cannot load an adapter whose files passed the checks, or its outputs are not finite."""


class RequestError(DearError):
    """One request cannot be answered; the server itself is fine.

    Args:
        message: one sentence for the caller, without passage text or paths.
        param: the wrong request field, dotted (``documents.3``), if there is one.
        retry_after_s: seconds until a retry may succeed, for retryable errors.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidRequest(RequestError):
    """A field is missing or wrong; ``param`` names it."""

    status = 400
    type = "invalid_request_error"


class PayloadTooLarge(InvalidRequest):
    """The body, the document count or a document's length exceeds the server's limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The declared content type is not JSON."""

    status = 415
    code = "unsupported_media_type"


class InvalidKey(RequestError):
    """The API key is missing or unknown."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(RequestError):
    """The route is closed to every caller on this server."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class UnknownModel(RequestError):
    """The caller may use no base model or adapter of that name."""

    status = 404
    type = "not_found_error"
    code = "model_not_found"


class UnknownRoute(RequestError):
    """No such path."""

    status = 404
    type = "not_found_error"
    code = "route_not_found"


class UnknownSubject(RequestError):
    """No tenant, key, grant, adapter or revision of that name."""

    status = 404
    type = "not_found_error"
    code = "subject_not_found"


class AlreadyThere(RequestError):
    """The object to create already exists."""

    status = 409
    type = "conflict_error"
    code = "already_exists"


class CapacityReached(RequestError):
    """The engines hold as many revisions as ``adapters.capacity`` allows."""

    status = 409
    type = "conflict_error"
    code = "capacity_reached"


class StagingFailed(RequestError):
    """An adapter was registered, but an engine could not load it or rank with it."""

    status = 422
    type = "invalid_request_error"
    code = "adapter_failed"


class MethodNotAllowed(RequestError):
    """The path exists, but not for this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTimeout(RequestError):
    """The request's body did not arrive in time."""

    status = 408
    type = "timeout_error"
    code = "body_timeout"


class Overloaded(RequestError):
    """The server's queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    retryable = True


class RateLimited(Overloaded):
    """The tenant has used up one of its limits.

    Args:
        headers: the limits and the remaining budget, as reply headers.
    """

    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, retry_after_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.headers = dict(headers or {})


class EngineUnavailable(RequestError):
    """No engine can take the work now: starting, draining, restarting or dead.

    Args:
        message: as in RequestError.
        retry_after_s: as in RequestError.
        failed: it is the fault of one engine, which died, hangs or answered nonsense.
    """

    status = 503
    type = "service_unavailable"
    code = "engine_unavailable"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        failed: bool = False,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.failed = failed


class RegistryUnavailable(RequestError):
    """The registry's database does not answer now."""

    status = 503
    type = "service_unavailable"
    code = "registry_unavailable"
    retryable = True


class WorkerUnavailable(RequestError):
    """The process that reads large bodies died, or took too long."""

    status = 503
    type = "service_unavailable"
    code = "worker_unavailable"
    retryable = True


class StoreUnavailable(RequestError):
    """The adapter store cannot be read or written now, or its files are damaged."""

    status = 503
    type = "service_unavailable"
    code = "store_unavailable"
    retryable = True


class GatewayUnavailable(RequestError):
    """The gateway that worked on the request died; whether it was done is not known."""

    status = 503
    type = "service_unavailable"
    code = "gateway_unavailable"
    retryable = True


class ShuttingDown(RequestError):
    """The server finishes its requests and ends; another one, or the next, can answer."""

    status = 503
    type = "service_unavailable"
    code = "shutting_down"
    retryable = True


class DeadlineExceeded(RequestError):
    """The caller's deadline passed before anything was decided."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    retryable = True
