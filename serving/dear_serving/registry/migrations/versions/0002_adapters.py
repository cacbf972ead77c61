"""Adapters, their revisions, and the heartbeats of gateways and replicas."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
kind = "expand"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "adapters",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("shared", sa.Boolean, nullable=False),
        sa.Column("seeded", sa.String(64)),
        sa.Column("active", sa.String(64)),
        sa.Column("previous", sa.String(64)),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_adapters"),
    )
    op.create_table(
        "revisions",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(500)),
        sa.Column("template", sa.String(128), nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("activate", sa.Boolean, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("changed_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", "digest", name="pk_revisions"),
        sa.ForeignKeyConstraint(["name"], ["adapters.name"], name="fk_revisions_name", ondelete="CASCADE"),
    )
    op.create_index("ix_revisions_state", "revisions", ["state"])
    version = op.create_table(
        "version",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_version"),
    )
    op.bulk_insert(version, [{"id": 1, "number": 0}])
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("adopted", sa.BigInteger, nullable=False),
        sa.Column("oldest", sa.BigInteger, nullable=False),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateways"),
    )
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("adopted", sa.BigInteger, nullable=False),
        sa.Column("seen_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
    )
    op.create_table(
        "holdings",
        sa.Column("replica_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.String(160), nullable=False),
        sa.Column("reason", sa.String(500)),
        sa.PrimaryKeyConstraint("replica_id", "revision", name="pk_holdings"),
        sa.ForeignKeyConstraint(
            ["replica_id"], ["replicas.id"], name="fk_holdings_replica_id", ondelete="CASCADE"
        ),
    )
