"""A tenant's cache salt is derived, not stored."""

from alembic import op

revision = "0003"
down_revision = "0002"
kind = "contract"


def upgrade() -> None:
    """Drop the column. In place on SQLite too: a dropped table would take keys and grants along."""
    op.drop_column("tenants", "cache_salt")
