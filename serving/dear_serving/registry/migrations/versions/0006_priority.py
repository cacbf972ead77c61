"""The highest priority of a tenant's requests."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
kind = "expand"


def upgrade() -> None:
    """Add the column; null: no limit."""
    op.add_column("tenants", sa.Column("highest_priority", sa.Integer, nullable=True))
