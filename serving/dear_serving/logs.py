"""Logs of gateways and replicas: lines for people or JSON for machines, one for each request, on stderr.

Ray keeps a process's stderr in its log folder. Callers' texts and keys are in no line: what is logged of a
request is noted field by field.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TextIO

from dear_serving.errors import RequestError
from dear_serving.settings import LoggingSettings

Facts = dict[str, Any]

_TO_JSON = json.JSONEncoder(separators=(",", ":"), default=str)

_requests: tuple[_Lines, TextIO] | None = None  # how lines of requests are written, and where to
_FACTS: ContextVar[Facts | None] = ContextVar("facts", default=None)


def configure(settings: LoggingSettings, process: str, stream: TextIO | None = None) -> None:
    """Log what dear_serving says in this process, a ``gateway`` or an ``engine``."""
    global _requests
    root, lines = logging.getLogger("dear_serving"), JsonLines if settings.format == "json" else TextLines
    handler = logging.StreamHandler(stream or sys.__stderr__)  # Serve may put a logger in place of sys.stderr
    handler.setFormatter(lines(process))
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(logging.INFO)
    _requests = (lines(process), handler.stream) if settings.requests else None


class About:
    """A request is answered in this task: lines have its ``request_id``, and ``note`` adds to its facts."""

    __slots__ = ("_facts", "_token")

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def __enter__(self) -> None:
        self._token = _FACTS.set(self._facts)

    def __exit__(self, *exc: object) -> None:
        _FACTS.reset(self._token)


def note(**facts: Any) -> None:
    """Something to log of the request that is being answered: names, counts, times; never a caller's text."""
    if (found := _FACTS.get()) is not None:
        found.update(facts)


def write(message: str, facts: Mapping[str, Any]) -> None:
    """A line with the facts of a request; those that are None are left out.

    It takes no way through logging, which would take twice as long.
    """
    if _requests is not None:
        lines, stream = _requests
        line = lines.line(time.time(), "INFO", "dear_serving.requests", message, facts)
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more: the request goes on
            stream.write(f"{line}\n")
            stream.flush()


def keep_texts_out(record: logging.LogRecord) -> bool:
    """A filter for Serve's logger, which writes the traceback of everything that is raised.

    What a caller is told is not logged. Of the rest the message is left out: it may quote a caller's text.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return True
    if isinstance(error, RequestError):
        return False
    record.msg, record.args = f"{record.getMessage()}\n{_described(error)}", ()
    record.exc_info = record.exc_text = None
    return True


class _Lines(logging.Formatter):
    """Lines with the facts of the request that they are about."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        request = _FACTS.get()
        facts = {} if request is None else {"request_id": request["request_id"]}
        error = record.exc_info[1] if record.exc_info else None
        told = None if error is None else _told(error)
        return self.line(record.created, record.levelname, record.name, record.getMessage(), facts, told)

    def line(
        self,
        at_s: float,
        level: str,
        name: str,
        message: str,
        facts: Mapping[str, Any],
        error: str | None = None,
    ) -> str:
        """A line, without its end."""
        raise NotImplementedError


class JsonLines(_Lines):
    """One JSON object a line."""

    def line(
        self,
        at_s: float,
        level: str,
        name: str,
        message: str,
        facts: Mapping[str, Any],
        error: str | None = None,
    ) -> str:
        """See _Lines."""
        said = {
            "time": _utc(at_s),
            "level": level.lower(),
            "process": self._process,
            "logger": name,
            "message": message,
            **_rounded(facts),
        }
        if error is not None:
            said["exception"] = error
        return _TO_JSON.encode(said)


class TextLines(_Lines):
    """A line, and the stack of an exception."""

    def line(
        self,
        at_s: float,
        level: str,
        name: str,
        message: str,
        facts: Mapping[str, Any],
        error: str | None = None,
    ) -> str:
        """See _Lines."""
        said = [_utc(at_s), level, self._process, message]
        said += [f"{fact}={value}" for fact, value in _rounded(facts).items()]
        return " ".join(said) if error is None else f"{' '.join(said)}\n{error}"


def _rounded(facts: Mapping[str, Any]) -> Facts:
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in facts.items()
        if value is not None
    }


def _told(error: BaseException) -> str:
    """An exception, whole where no request is answered."""
    if _FACTS.get() is not None:
        return _described(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _described(error: BaseException) -> str:
    """Where an exception is from, and its class. Not its message, which may quote a caller's text."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    described = "\n".join([*places, type(error).__qualname__])
    return described if cause is None else f"{_described(cause)}\nthen {described}"


def _utc(at_s: float) -> str:
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))
    return f"{second}.{int(at_s % 1 * 1e3):03d}Z"
