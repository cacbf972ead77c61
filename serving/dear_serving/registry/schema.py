"""The tables' revision: which releases can use a database, and the migration to this release's.

A migration is an expansion (``kind = "expand"``: releases that do not know it work on) or a contraction
(``kind = "contract"``: they do not). The database records the oldest revision that a release must know. So
an upgrade first migrates, then replaces processes one by one; what a release drops, no process of the
release before may use.
"""

from __future__ import annotations

import logging
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, select, text, update

from dear_serving.errors import SettingsError
from dear_serving.registry.tables import CompatibilityRow

# Alembic logs the kind of database at every start.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)

logger = logging.getLogger(__name__)

Migrate = Literal["auto", "always", "never"]
"""Whether opening migrates. ``auto``: an SQLite file, and a PostgreSQL database without tables."""

_MIGRATIONS = "dear_serving.registry:migrations"
# Any number works, if every server uses the same one.
_UPGRADE_LOCK = zlib.crc32(b"dear-serving registry upgrade")
_LOCK_WAIT = "SET LOCAL lock_timeout = '30s'"


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of a database's tables, None if it has none; ``oldest`` is the one that a release
    must know at least to use them, None where that was not recorded."""

    revision: str | None
    oldest: str | None

    @property
    def is_current(self) -> bool:
        """Whether it is this release's."""
        return self.revision == known_revisions()[-1]

    @property
    def is_newer(self) -> bool:
        """Whether a later release made it."""
        return self.revision is not None and self.revision not in known_revisions()

    @property
    def is_usable(self) -> bool:
        """Whether this release can work with it as it is."""
        return self.is_current or (self.is_newer and self.oldest in known_revisions())


def read_schema(connection: Connection) -> Schema:
    """What a database has."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None or not inspect(connection).has_table(CompatibilityRow.__tablename__):
        return Schema(revision, None)
    return Schema(revision, connection.scalar(select(CompatibilityRow.oldest)))


def must_migrate(schema: Schema, migrate: Migrate, dialect: str) -> bool:
    """Whether opening a database has to migrate it first.

    Raises:
        SettingsError: this release cannot use the tables as they are, and may not migrate them.
    """
    if schema.is_usable:
        if schema.is_newer:
            logger.info(
                "the registry's tables (%s) are a later release's, which this one works with", schema.revision
            )
        return False
    if schema.is_newer:
        raise SettingsError(
            f"registry.url: the tables ({schema.revision}) are a later release's, which this one cannot use; "
            "install that release"
        )
    if migrate == "never" or (migrate == "auto" and dialect != "sqlite" and schema.revision is not None):
        has = f"are an earlier release's ({schema.revision})" if schema.revision else "are missing"
        raise SettingsError(f"registry.url: the tables {has}; run dear migrate, or see registry.migrate")
    return True


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the missing migrations in the connection's transaction; several processes may do so at once."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        connection.execute(text(_LOCK_WAIT))  # else all wait behind a statement that waits for a table
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    if revision == "head":
        connection.execute(update(CompatibilityRow).values(oldest=_last_contraction()))


@cache
def known_revisions() -> tuple[str, ...]:
    """This release's revisions, oldest first."""
    return tuple(script.revision for script in _scripts())


def kinds() -> dict[str, str]:
    """Each revision's kind."""
    return {script.revision: script.module.kind for script in _scripts()}


def _last_contraction() -> str:
    return [revision for revision, kind in kinds().items() if kind == "contract"][-1]


def _scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(_config()).walk_revisions())[::-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    return config
