"""Several deployments share a registry: names, revisions and processes belong to a cluster.

A release that does not know clusters works on as the cluster ``default``, as long as there is no other.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
kind = "expand"


def _cluster() -> sa.Column[str]:
    return sa.Column("cluster", sa.String(64), nullable=False, server_default="default")


def upgrade() -> None:
    """Add the column everywhere, and to the keys of names and revisions."""
    for table in ("gateways", "replicas"):
        op.add_column(table, _cluster())
    # SQLite makes these tables anew. Revisions first: else dropping the names would take them along.
    with op.batch_alter_table("revisions") as revisions:
        revisions.drop_constraint("fk_revisions_name", type_="foreignkey")
        revisions.drop_constraint("pk_revisions", type_="primary")
        revisions.add_column(_cluster())
        revisions.create_primary_key("pk_revisions", ["cluster", "name", "digest"])
    with op.batch_alter_table("adapters") as adapters:
        adapters.drop_constraint("pk_adapters", type_="primary")
        adapters.add_column(_cluster())
        adapters.create_primary_key("pk_adapters", ["cluster", "name"])
    with op.batch_alter_table("revisions") as revisions:
        revisions.create_foreign_key(
            "fk_revisions_cluster", "adapters", ["cluster", "name"], ["cluster", "name"], ondelete="CASCADE"
        )
