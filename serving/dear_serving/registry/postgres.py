"""PostgreSQL over psycopg: connections that never wait for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

from psycopg import AsyncConnection, Connection, OperationalError
from sqlalchemy import URL, Engine, create_engine, event

_POOL_WAIT_S = 5.0
_STATEMENT_S = 5.0
_ANSWER_S = 8.0
"""The client's own limit. It counts when the server is silent: stopped, cut off, or on a disk that hangs."""

_CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    # A peer that is gone without a word is noticed within about 10 s, reading or writing.
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "dear-serving",
}

# The server ends what is too slow, and frees the locks of a client that vanished in a transaction. By SET,
# since connection poolers refuse these as options of a connection.
_SESSION = (
    f"SET statement_timeout = {_STATEMENT_S * 1000:.0f}; SET lock_timeout = {_STATEMENT_S * 1000:.0f}; "
    f"SET idle_in_transaction_session_timeout = {2 * _STATEMENT_S * 1000:.0f}"
)


def postgres_engine(url: URL, pool_size: int, *, unhurried: bool = False) -> Engine:
    """An engine with at most ``pool_size`` connections; who waits too long for one gets a TimeoutError.

    Args:
        url: an SQLAlchemy URL; its own parameters win over the defaults here.
        pool_size: connections at once.
        unhurried: statements may take as long as they need, as migrations do.
    """
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_WAIT_S,
        pool_use_lifo=True,
        connect_args={key: value for key, value in _CONNECTION.items() if key not in url.query},
    )
    if not unhurried:
        event.listen(engine, "do_connect", _connect)
        event.listen(engine, "connect", _set_up)
    return engine


async def notifications(engine: Engine, channel: str) -> AsyncGenerator[str | None, None]:
    """What is notified on a channel, over a connection of its own; None first, when it listens.

    Raises:
        psycopg.Error, TimeoutError: the connection cannot be made, or broke.
    """
    args, given = engine.dialect.create_connect_args(engine.url)
    async with asyncio.timeout(_ANSWER_S):
        connection = await AsyncConnection.connect(*args, autocommit=True, **{**_CONNECTION, **given})
    async with connection:
        async with asyncio.timeout(_ANSWER_S):
            await connection.execute(f"LISTEN {channel}".encode())
        yield None
        async with contextlib.aclosing(connection.notifies()) as notices:
            async for notice in notices:
                yield notice.payload


class BoundedConnection(Connection[Any]):
    """Gives up on a server that is silent, which libpq does not."""

    def wait(self, gen: Generator[Any, Any, Any], *given: Any, **more: Any) -> Any:
        """As Connection.wait; OperationalError, and the connection closed, if no answer comes in time."""
        return super().wait(self._bounded(gen), *given, **more)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same generator, which psycopg resumes several times a second while nothing comes."""
        ends_s = time.monotonic() + _ANSWER_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > ends_s:
                    self.close()
                    raise OperationalError(f"no answer in {_ANSWER_S:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def _connect(dialect: Any, record: Any, args: Any, kwargs: Any) -> BoundedConnection:
    return BoundedConnection.connect(*args, **kwargs)


def _set_up(connection: Any, record: Any) -> None:
    connection.execute(_SESSION)
    connection.commit()
