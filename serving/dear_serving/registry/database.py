"""Opens the registry's database, migrates its tables, and runs transactions on it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    create_engine,
    event,
    extract,
    func,
    literal,
    make_url,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from dear_serving.errors import InvalidRequest, RegistryUnavailable, SettingsError
from dear_serving.registry.schema import Migrate, Schema, must_migrate, read_schema, upgrade

logger = logging.getLogger(__name__)

_WRITES = "dear_writes"
_CHANNEL = "dear_registry"
_BUSY_TIMEOUT_MS = 5000
_RETRY_AFTER_S = 2.0
POOL_SIZE = 4
"""How many connections to PostgreSQL a process has at most, unless the settings say another number."""


class Database:
    """An open registry. Thread-safe.

    Args:
        engine: engine of an up-to-date database; see ``open_database``.

    ``observe`` is called after each transaction, with its seconds and whether the database did its part.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.observe: Callable[[float, bool], None] = lambda seconds, is_ok: None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction.

        Raises:
            RegistryUnavailable: the database does not answer.
        """
        with self._timed(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, or rolls back if the block raises.

        On SQLite writing transactions run one at a time.

        Raises:
            RegistryUnavailable: the database does not answer, or takes no changes now; nothing was changed.
        """
        with (
            self._timed(),
            self._engine.execution_options(**{_WRITES: True}).connect() as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began_s, is_ok = time.monotonic(), True
        try:
            with _translated():
                yield
        except RegistryUnavailable:
            is_ok = False
            raise
        finally:
            self.observe(time.monotonic() - began_s, is_ok)

    @property
    def tells(self) -> bool:
        """Whether the database tells others of changes."""
        return self._engine.dialect.name == "postgresql" and self._engine.dialect.driver == "psycopg"

    def tell(self, session: Session, topic: str) -> None:
        """Tell all who listen of a change, when its transaction commits."""
        if self._engine.dialect.name == "postgresql":
            session.execute(select(func.pg_notify(_CHANNEL, topic)))

    async def told(self) -> AsyncIterator[str | None]:
        """The topics that others tell, on a connection of its own; None when it begins to listen.

        Raises:
            Exception: the connection cannot be made, or broke.
        """
        from dear_serving.registry.postgres import notifications

        async with contextlib.aclosing(notifications(self._engine, _CHANNEL)) as topics:
            async for topic in topics:
                yield topic

    def now(self) -> ColumnElement[Any]:
        """Seconds since the epoch as SQL, by the database's own clock: all machines agree on it."""
        if self._engine.dialect.name == "postgresql":
            return extract("epoch", func.clock_timestamp())
        return literal(time.time())  # the file's machine is this one

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_database(url: str, *, migrate: Migrate = "auto", pool_size: int = POOL_SIZE) -> Database:
    """Open the registry; create or migrate its tables if they need it and ``migrate`` allows it.

    Several servers may do so at once.

    Args:
        url: an SQLAlchemy URL: ``sqlite:////absolute/registry.db``, ``postgresql+psycopg://user@host/name``.
        migrate: see schema.Migrate.
        pool_size: connections to PostgreSQL at once.

    Raises:
        SettingsError: the database cannot be opened, or its tables are another release's; one sentence
            without the password.
    """
    engine = _create_engine(url, pool_size)
    try:
        with _refused(engine, "opened"), engine.connect() as connection:
            schema = read_schema(connection)
        if must_migrate(schema, migrate, engine.dialect.name):
            migrate_database(url)
    except SettingsError:
        engine.dispose()
        raise
    return Database(engine)


def migrate_database(url: str) -> tuple[Schema, Schema]:
    """Create the registry's tables, or bring them to this release's revision. Nothing or all is changed.

    Returns:
        What the database had before, and has now. A later release's tables stay as they are.

    Raises:
        SettingsError: as for ``open_database``; or the database refuses the change.
    """
    engine = _create_engine(url, pool_size=1, unhurried=True)
    try:
        with (
            _refused(engine, "migrated"),
            engine.execution_options(**{_WRITES: True}).begin() as connection,
        ):
            before = read_schema(connection)
            if must_migrate(before, "always", engine.dialect.name):
                upgrade(connection)
            return before, read_schema(connection)
    finally:
        engine.dispose()


@contextmanager
def _refused(engine: Engine, what: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise SettingsError(f"registry.url: {shown} cannot be {what}: {_reason(error)}") from None


def _create_engine(url: str, pool_size: int = POOL_SIZE, *, unhurried: bool = False) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("registry.url is not a database URL, such as sqlite:///registry.db") from None
    if parsed.get_backend_name() != "sqlite":
        try:
            if parsed.get_dialect().driver != "psycopg":
                return create_engine(parsed, pool_pre_ping=True, pool_size=pool_size, max_overflow=0)
            from dear_serving.registry.postgres import postgres_engine

            return postgres_engine(parsed, pool_size, unhurried=unhurried)
        except (NoSuchModuleError, ImportError) as error:
            raise SettingsError(f"registry.url: no driver for {parsed.drivername}: {error}") from None
    if parsed.database and not parsed.database.startswith((":memory:", "file:")):
        try:
            _make_private(Path(parsed.database))
        except OSError as error:
            raise SettingsError(f"registry.url: {parsed.database}: {error.strerror}") from None
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(file: Path) -> None:
    """Create the database's file if need be, for its owner alone. SQLite gives -wal and -shm its mode."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    for one in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # or another user's
            one.chmod(0o600)


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite sends BEGIN
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}").close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the start: SQLite may refuse to upgrade a read transaction later."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Every error of the database as one of ours; its own words are for the log."""
    try:
        yield
    except DataError:  # for example a NUL in a text, which PostgreSQL refuses
        raise InvalidRequest("a value is none that the registry can keep") from None
    except SQLAlchemyError as error:
        sentence, expected = _sentence(error)
        if not expected:
            logger.error("the registry: %s", _reason(error), exc_info=error)
        raise RegistryUnavailable(sentence, retry_after_s=_RETRY_AFTER_S) from error


def _sentence(error: SQLAlchemyError) -> tuple[str, bool]:
    """What is said of an error, and whether it comes with ordinary operation."""
    if isinstance(error, NoConnection):
        return "all connections to the registry are in use now", True
    words = _reason(error).lower()
    if "read-only" in words or "readonly" in words:
        return "the registry takes no changes now: it is read-only", True
    if "disk is full" in words or "no space left" in words:
        return "the registry takes no changes now: its disk is full", True
    if isinstance(error, IntegrityError | StaleDataError):
        return "the registry was changed by another at the same moment", True
    if isinstance(error, OperationalError | InterfaceError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    ):
        return "the registry does not answer now", True
    return "the registry cannot do that now", False


def _reason(error: SQLAlchemyError) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error).strip().split("\n", 1)[0]
