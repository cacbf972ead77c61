"""The most prompt tokens of a tenant's request."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
kind = "expand"


def upgrade() -> None:
    """Add the column; null: no limit."""
    op.add_column("tenants", sa.Column("max_prompt_tokens", sa.BigInteger, nullable=True))
