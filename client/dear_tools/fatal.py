"""Errors after which the rest of many requests is not worth sending."""

from __future__ import annotations

from dear_client import (
    AnswerTimeout,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    InvalidCall,
    InvalidKey,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    Unavailable,
    UnexpectedReply,
    UnknownModel,
)

_OF_THE_SERVER = (
    ConfigurationError,
    ConnectionFailed,
    AnswerTimeout,
    UnexpectedReply,
    InvalidKey,
    PermissionDenied,
    NotFound,
    MethodNotAllowed,
    Unavailable,
)


def is_fatal(error: ClientError, *, own_options: bool = False) -> bool:
    """Whether other requests would fail as this one did.

    Args:
        own_options: whether the request had options that the others lack; then an error about the options
            says nothing about the others.
    """
    if isinstance(error, InvalidRequest):
        field = (error.param or "").partition(".")[0]
        is_of_options = not isinstance(error, PayloadTooLarge) and field not in ("query", "documents")
        return is_of_options and not own_options
    if isinstance(error, InvalidCall | UnknownModel):
        return not own_options
    return isinstance(error, _OF_THE_SERVER)
