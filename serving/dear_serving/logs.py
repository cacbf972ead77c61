"""Logs of gateways and replicas: lines for people or JSON for machines, one for each request, on stderr.

Ray keeps a process's stderr in its log folder. Callers' texts and keys are in no line: what is logged of a
request is noted field by field.
"""

from __future__ import annotations

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

logger = logging.getLogger("dear_serving.requests")

Facts = dict[str, Any]

_TO_JSON = json.JSONEncoder(separators=(",", ":"), default=str)

_FACTS: ContextVar[Facts | None] = ContextVar("facts", default=None)


def configure(settings: LoggingSettings, process: str, stream: TextIO | None = None) -> None:
    """Log what dear_serving says in this process, a ``gateway`` or an ``engine``."""
    root = logging.getLogger("dear_serving")
    handler = logging.StreamHandler(stream or sys.__stderr__)  # Serve may put a logger in place of sys.stderr
    handler.setFormatter(JsonLines(process) if settings.format == "json" else TextLines(process))
    root.handlers = [handler]
    root.propagate = False
    root.setLevel(logging.INFO)
    logger.setLevel(logging.INFO if settings.requests else logging.WARNING)


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
    """A line with the facts of a request; those that are None are left out."""
    if logger.isEnabledFor(logging.INFO):
        # As logger.info does, but for a look at the stack, which takes a third of the time.
        record = logging.LogRecord(logger.name, logging.INFO, __file__, 0, message, (), None)
        record.facts = facts
        logger.handle(record)


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

    def facts(self, record: logging.LogRecord) -> Facts:
        """What is known of the request."""
        facts: Mapping[str, Any] | None = getattr(record, "facts", None)
        if facts is not None:
            return {
                name: round(value, 3) if isinstance(value, float) else value
                for name, value in facts.items()
                if value is not None
            }
        request = _FACTS.get()
        return {} if request is None else {"request_id": request["request_id"]}


class JsonLines(_Lines):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **self.facts(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _told(record.exc_info[1])
        return _TO_JSON.encode(line)


class TextLines(_Lines):
    """One line a record, and the stack of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        said = [_utc(record), record.levelname, self._process, record.getMessage()]
        said += [f"{name}={value}" for name, value in self.facts(record).items()]
        if record.exc_info and record.exc_info[1] is not None:
            said.append(f"\n{_told(record.exc_info[1])}")
        return " ".join(said)


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


def _utc(record: logging.LogRecord) -> str:
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{second}.{int(record.msecs):03d}Z"
