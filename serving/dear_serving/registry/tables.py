"""The registry's tables. Times are seconds since the epoch, UTC."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Table(DeclarativeBase):
    """Base of all tables; constraints have names, so that migrations can refer to them."""

    metadata = MetaData(naming_convention=_NAMES)


class TenantRow(Table):
    """A customer of the server. A limit of None is no limit."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    weight: Mapped[float] = mapped_column(Double)
    requests_in_flight: Mapped[int | None] = mapped_column(Integer)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    highest_priority: Mapped[int | None] = mapped_column(Integer)
    max_prompt_tokens: Mapped[int | None] = mapped_column(BigInteger)
    created_s: Mapped[float] = mapped_column(Double)


class KeyRow(Table):
    """An API key: its public id, and the salted hash of its secret."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
    label: Mapped[str] = mapped_column(String(200))
    salt: Mapped[bytes] = mapped_column(LargeBinary(32))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_s: Mapped[float] = mapped_column(Double)
    expires_s: Mapped[float | None] = mapped_column(Double)
    revoked_s: Mapped[float | None] = mapped_column(Double)


class GrantRow(Table):
    """Lets a tenant use an adapter that is not shared."""

    __tablename__ = "grants"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(128), primary_key=True)


DEFAULT_CLUSTER = "default"
"""The cluster of a deployment whose settings name none."""


class AdapterRow(Table):
    """A cluster's public name, and the digests of its ``active`` revision (None: retired) and the
    ``previous`` one.

    ``seeded``: the digest of the adapter in the settings file at the last start, None if it was not there.
    """

    __tablename__ = "adapters"

    cluster: Mapped[str] = mapped_column(String(64), primary_key=True, server_default=DEFAULT_CLUSTER)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    shared: Mapped[bool] = mapped_column(Boolean)
    seeded: Mapped[str | None] = mapped_column(String(64))
    active: Mapped[str | None] = mapped_column(String(64))
    previous: Mapped[str | None] = mapped_column(String(64))
    created_s: Mapped[float] = mapped_column(Double)


class RevisionRow(Table):
    """A revision of a cluster's adapter, by its digest, with its state.

    ``activate``: it becomes active as soon as it is staged. ``version``: the registry's version at the last
    change of its state.
    """

    __tablename__ = "revisions"
    __table_args__ = (
        Index("ix_revisions_state", "state"),
        ForeignKeyConstraint(
            ["cluster", "name"],
            ["adapters.cluster", "adapters.name"],
            name="fk_revisions_cluster",
            ondelete="CASCADE",
        ),
    )

    cluster: Mapped[str] = mapped_column(String(64), primary_key=True, server_default=DEFAULT_CLUSTER)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(500))
    template: Mapped[str] = mapped_column(String(128))
    rank: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    activate: Mapped[bool] = mapped_column(Boolean)
    version: Mapped[int] = mapped_column(BigInteger)
    created_s: Mapped[float] = mapped_column(Double)
    changed_s: Mapped[float] = mapped_column(Double)


class VersionRow(Table):
    """The registry's version: one row; grows with every change that gateways and replicas have to adopt."""

    __tablename__ = "version"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)


class GatewayRow(Table):
    """The last heartbeat of a gateway replica: the version that it uses, and the oldest version that one of
    its running requests uses."""

    __tablename__ = "gateways"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cluster: Mapped[str] = mapped_column(String(64), server_default=DEFAULT_CLUSTER)
    adopted: Mapped[int] = mapped_column(BigInteger)
    oldest: Mapped[int] = mapped_column(BigInteger)
    seen_s: Mapped[float] = mapped_column(Double)


class ReplicaRow(Table):
    """The last heartbeat of an engine replica: the registry version that it is in sync with."""

    __tablename__ = "replicas"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    cluster: Mapped[str] = mapped_column(String(64), server_default=DEFAULT_CLUSTER)
    adopted: Mapped[int] = mapped_column(BigInteger)
    seen_s: Mapped[float] = mapped_column(Double)


class HoldingRow(Table):
    """A revision that an engine replica has loaded, or could not load for ``reason``."""

    __tablename__ = "holdings"

    replica_id: Mapped[str] = mapped_column(ForeignKey("replicas.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[str] = mapped_column(String(160), primary_key=True)
    reason: Mapped[str | None] = mapped_column(String(500))


class AuditRow(Table):
    """Who changed what; written in the same transaction as the change."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at_s", "at_s"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at_s: Mapped[float] = mapped_column(Double)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(200))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)


class CompatibilityRow(Table):
    """One row: the oldest revision of the tables that a release must know to use them; see schema.py."""

    __tablename__ = "compatibility"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    oldest: Mapped[str] = mapped_column(String(32))
