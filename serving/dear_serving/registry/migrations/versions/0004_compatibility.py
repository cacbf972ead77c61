"""Which earlier releases can use the tables."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
kind = "expand"


def upgrade() -> None:
    """Create the table with its row; the upgrade fills it in."""
    compatibility = op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("oldest", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_compatibility"),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest": revision}])
