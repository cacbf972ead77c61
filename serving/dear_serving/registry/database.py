"""Opens the registry's database, migrates its tables, and runs transactions on it."""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from dear_serving.errors import InvalidRequest, RegistryUnavailable, SettingsError

# Alembic logs the kind of database at every start.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)

_MIGRATIONS = "dear_serving.registry:migrations"
_WRITES = "dear_writes"
_BUSY_TIMEOUT_MS = 5000
_RETRY_AFTER_S = 2.0
# Any number works, if every server uses the same one.
_UPGRADE_LOCK = zlib.crc32(b"dear-serving registry upgrade")


class Database:
    """An open registry. Thread-safe.

    Args:
        engine: engine of an up-to-date database; see ``open_database``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction.

        Raises:
            RegistryUnavailable: the database does not answer.
        """
        with _translated(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, or rolls back if the block raises.

        On SQLite writing transactions run one at a time.

        Raises:
            RegistryUnavailable: the database does not answer; nothing was changed.
        """
        with (
            _translated(),
            self._engine.execution_options(**{_WRITES: True}).connect() as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open the registry; create or migrate its tables if needed. Several servers may do so at once.

    Args:
        url: an SQLAlchemy URL: ``sqlite:////absolute/registry.db``, ``postgresql+psycopg://user@host/name``.

    Raises:
        SettingsError: the database cannot be opened; one sentence without the password.
    """
    engine = _create_engine(url)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.execution_options(**{_WRITES: True}).begin() as connection:
            _upgrade(connection)
    except SQLAlchemyError as error:
        engine.dispose()
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip().split("\n", 1)[0]
        raise SettingsError(f"registry.url: {shown} cannot be opened: {reason}") from None
    return Database(engine)


def _create_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("registry.url is not a database URL, such as sqlite:///registry.db") from None
    if parsed.get_backend_name() != "sqlite":
        try:
            return create_engine(parsed, pool_pre_ping=True)
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


def _upgrade(connection: Connection, revision: str = "head") -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DataError:  # for example a NUL in a text, which PostgreSQL refuses
        raise InvalidRequest("a value is none that the registry can keep") from None
    except DBAPIError as error:
        if error.connection_invalidated or type(error).__name__ in {"OperationalError", "InterfaceError"}:
            raise RegistryUnavailable(
                "the registry does not answer now", retry_after_s=_RETRY_AFTER_S
            ) from error
        raise
