"""Many rerankings at once: the part that both clients share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dear_client.calls import Calls
from dear_client.errors import ClientError, InvalidCall
from dear_client.exchange import Call
from dear_client.models import Ranking
from dear_client.options import RerankRequest, check_options

Ranked: TypeAlias = Ranking | ClientError
"""The result of one of many requests."""

AHEAD = 4
"""How many times ``concurrency`` requests may be begun before the first of them has been taken."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run of many requests is; ``failed`` of the ``done`` ones brought an error."""

    done: int
    failed: int


OnProgress: TypeAlias = Callable[[Progress], Any]


class Counter:
    """Counts what is done, from any thread, and reports it."""

    def __init__(self, tell: OnProgress | None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._done = self._failed = 0

    def count(self, ranked: Ranked) -> None:
        """One more is done."""
        with self._lock:
            self._done += 1
            self._failed += isinstance(ranked, ClientError)
            if self._tell is not None:
                self._tell(Progress(self._done, self._failed))


def call_of(calls: Calls, request: RerankRequest) -> Call[Ranking]:
    """The call of one of many requests.

    Raises:
        InvalidCall: it has no query, no documents, or something else wrong.
    """
    if not isinstance(request, Mapping):
        raise InvalidCall(f"a request is a dict, not {type(request).__name__}")
    for name in ("query", "documents"):
        if name not in request:
            raise InvalidCall(f"the request has no {name!r}")
    options: dict[str, Any] = {**request}
    query, documents = options.pop("query"), options.pop("documents")
    check_options(options)
    return calls.rerank(query, documents, **options)


def checked(concurrency: int) -> int:
    """The number given; raises InvalidCall where nothing could run."""
    if concurrency < 1:
        raise InvalidCall(f"concurrency: {concurrency} is below 1")
    return concurrency
