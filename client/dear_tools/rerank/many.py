"""Many lists through one client: each named where it fails, all counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import typer

from dear_client import Client, InvalidCall, Ranking, RerankRequest
from dear_tools.fatal import is_fatal
from dear_tools.progress import progress


@dataclass(frozen=True, slots=True)
class Asked:
    """A list to rank.

    Args:
        where: its name in an error.
        request: as Client.rerank_many takes it.
        kept: fields of its result besides the ranking.
        wrong: why it cannot be sent.
        own_options: whether it has options that the others lack.
    """

    where: str
    request: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    wrong: str | None = None
    own_options: bool = False


def rank_all(
    client: Client, lists: Iterable[Asked], concurrency: int
) -> Iterator[tuple[Asked, Ranking | str]]:
    """Each list with its ranking, or with what went wrong, which is on stderr too; in their order.

    Raises:
        ClientError: nothing worked so far, and every other list would fail alike (see is_fatal).
    """
    begun: deque[Asked] = deque()

    def requests() -> Iterator[RerankRequest]:
        for asked in lists:
            begun.append(asked)
            # The client refuses an empty request without a call, in its turn.
            yield cast(RerankRequest, {} if asked.wrong else asked.request)

    failed = 0
    with progress("lists") as update:
        for done, ranked in enumerate(client.rerank_iter(requests(), concurrency=concurrency), start=1):
            asked = begun.popleft()
            if isinstance(ranked, Ranking):
                yield asked, ranked
            else:
                failed += 1
                # What the client refuses to send is a fault of this list alone.
                is_its_own = asked.wrong is not None or isinstance(ranked, InvalidCall)
                if failed == done and not is_its_own and is_fatal(ranked, own_options=asked.own_options):
                    raise ranked
                reason = asked.wrong or ranked.message
                typer.echo(f"{asked.where}: {reason}", err=True)
                yield asked, reason
            update(done, failed)
