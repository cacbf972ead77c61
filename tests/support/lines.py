"""What dear_serving's loggers write in this process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

from dear_serving import logs
from dear_serving.settings import LoggingSettings


class Written(io.StringIO):
    """A stream of log lines."""

    def lines(self) -> list[dict[str, Any]]:
        """All of them, which are JSON."""
        return [json.loads(line) for line in self.getvalue().splitlines()]


@contextlib.contextmanager
def written(
    form: Literal["text", "json"] = "json", process: str = "gateway", *, requests: bool = True
) -> Iterator[Written]:
    """A process that logs as this; its loggers are as before in the end."""
    root, stream = logging.getLogger("dear_serving"), Written()
    handlers, propagate, level = root.handlers, root.propagate, root.level
    logs.configure(LoggingSettings(format=form, requests=requests), process, stream)
    try:
        yield stream
    finally:
        root.handlers, root.propagate = handlers, propagate
        root.setLevel(level)
        logs._requests = None
