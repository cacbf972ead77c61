"""Many lists through one client: each named where it fails, all counted."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dear_client import (
    Client,
    ConfigurationError,
    ConnectionFailed,
    InvalidKey,
    Ranking,
    RerankRequest,
    UnexpectedReply,
)

_HOPELESS = (ConfigurationError, ConnectionFailed, InvalidKey, UnexpectedReply)
"""Errors that, where nothing worked before them, would be those of every other list as well."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A list to rank.

    Args:
        where: what it is called where it fails.
        request: as Client.rerank_many takes it.
        kept: what its result says beside the ranking.
        wrong: why it cannot even be asked for.
    """

    where: str
    request: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    wrong: str | None = None


def rank_all(
    client: Client, lists: Iterable[Asked], concurrency: int
) -> Iterator[tuple[Asked, Ranking | str]]:
    """Each list with its ranking, or with what went wrong, which is on stderr too; in their order.

    Raises:
        ClientError: the server cannot be reached, or lets nobody in: no list would fare better.
    """
    begun: deque[Asked] = deque()

    def requests() -> Iterator[RerankRequest]:
        for asked in lists:
            begun.append(asked)
            # What is wrong already, the client refuses without a call, in its turn.
            yield cast(RerankRequest, {} if asked.wrong else asked.request)

    failed = 0
    with _counted() as count:
        for done, ranked in enumerate(client.rerank_iter(requests(), concurrency=concurrency), start=1):
            asked = begun.popleft()
            if isinstance(ranked, Ranking):
                yield asked, ranked
            else:
                failed += 1
                if asked.wrong is None and failed == done and isinstance(ranked, _HOPELESS):
                    raise ranked
                said = asked.wrong or ranked.message
                typer.echo(f"{asked.where}: {said}", err=True)
                yield asked, said
            count()


@contextlib.contextmanager
def _counted() -> Iterator[Callable[[], None]]:
    """Something to call for each list that is done, shown on a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("lists"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda: progress.advance(task)
