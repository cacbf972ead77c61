"""Tenants, their keys, limits and grants in the registry."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dear_serving.errors import AlreadyThere, UnknownSubject
from dear_serving.registry import audit
from dear_serving.registry.database import Database
from dear_serving.registry.tables import GrantRow, KeyRow, TenantRow
from dear_serving.tenancy.keys import new_key

DEFAULT_TENANT = "default"
"""The tenant of callers without a key (on an open server) or with a key from the environment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A tenant's limits over all gateways; None: no limit. Tokens are the requests' predicted cost. A request
    with a priority above ``highest_priority``, that is a lower number, gets this one. All windows of a rerank
    have ``max_prompt_tokens`` together."""

    requests_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    highest_priority: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the server.

    Args:
        id: its name, in metrics and messages.
        weight: its share of saturated engines, relative to the other tenants' weights.
        limits: see Limits.
        cache_salt: separates its cached prefixes from other tenants'; tenants with None share theirs.
        granted: names of the adapters that it may use besides the shared ones.
    """

    id: str = DEFAULT_TENANT
    weight: float = 1.0
    limits: Limits = Limits()
    cache_salt: str | None = None
    granted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. Times are seconds since the epoch; None: never."""

    id: str
    tenant: str
    label: str
    created_s: float
    expires_s: float | None
    revoked_s: float | None

    def is_valid(self, now_s: float) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with the only copy of its text."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What a gateway needs to verify a key: its tenant, salt and digest."""

    key: Key
    tenant: Tenant
    salt: bytes
    digest: bytes


class Tenants:
    """Reads and changes tenants. Every change is one transaction with its audit entry; methods block.

    All raise RegistryUnavailable while the database does not answer.

    Args:
        database: the registry.
        now_s: seconds since the epoch.
    """

    def __init__(self, database: Database, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s

    def create(self, tenant: str, *, weight: float, limits: Limits, actor: str) -> Tenant:
        """Create a tenant.

        Raises:
            AlreadyThere: the id exists.
        """
        row = TenantRow(
            id=tenant,
            weight=weight,
            **asdict(limits),
            created_s=self._now_s(),
        )
        with self._database.writing() as session:
            session.add(row)
            try:
                session.flush()
            except IntegrityError:
                raise AlreadyThere(f'there is a tenant "{tenant}" already', param="id") from None
            self._note(session, actor, "tenant.create", tenant, {"weight": weight, **asdict(limits)})
            return _tenant(row, frozenset())

    def change(self, tenant: str, changes: Mapping[str, Any], *, actor: str) -> Tenant:
        """Change a tenant's weight and limits.

        Args:
            tenant: the tenant's id.
            changes: new values of ``weight`` and fields of Limits; others stay unchanged.
            actor: who makes the change, for the audit trail.

        Raises:
            UnknownSubject: no such tenant.
        """
        with self._database.writing() as session:
            row = _find(session, tenant)
            for name, value in changes.items():
                setattr(row, name, value)
            self._note(session, actor, "tenant.change", tenant, dict(changes))
            return _tenant(row, _granted(session, tenant))

    def get(self, tenant: str) -> Tenant:
        """The tenant with this id.

        Raises:
            UnknownSubject: no such tenant.
        """
        with self._database.reading() as session:
            return _tenant(_find(session, tenant), _granted(session, tenant))

    def list(self, *, after: str = "", limit: int = 100) -> Sequence[Tenant]:
        """At most ``limit`` tenants in order of their ids, from the first id after ``after``."""
        chosen = select(TenantRow).where(TenantRow.id > after).order_by(TenantRow.id).limit(limit)
        with self._database.reading() as session:
            rows = session.scalars(chosen).all()
            granted: dict[str, set[str]] = {row.id: set() for row in rows}
            for grant in session.scalars(select(GrantRow).where(GrantRow.tenant_id.in_(granted))):
                granted[grant.tenant_id].add(grant.adapter)
            return [_tenant(row, frozenset(granted[row.id])) for row in rows]

    def grant(self, tenant: str, adapter: str, *, actor: str) -> Tenant:
        """Let a tenant use an adapter that is not shared; an existing grant stays.

        Raises:
            UnknownSubject: no such tenant.
        """
        with self._database.writing() as session:
            row = _find(session, tenant)
            if session.get(GrantRow, (tenant, adapter)) is None:
                session.add(GrantRow(tenant_id=tenant, adapter=adapter))
                self._note(session, actor, "grant.add", tenant, {"adapter": adapter})
                session.flush()
            return _tenant(row, _granted(session, tenant))

    def revoke_grant(self, tenant: str, adapter: str, *, actor: str) -> Tenant:
        """Remove a tenant's grant of an adapter.

        Raises:
            UnknownSubject: no such tenant or grant.
        """
        with self._database.writing() as session:
            row = _find(session, tenant)
            grant = session.get(GrantRow, (tenant, adapter))
            if grant is None:
                raise UnknownSubject(f'tenant "{tenant}" has no grant of "{adapter}"', param="adapter")
            session.delete(grant)
            self._note(session, actor, "grant.remove", tenant, {"adapter": adapter})
            session.flush()
            return _tenant(row, _granted(session, tenant))

    def delete(self, tenant: str, *, actor: str) -> None:
        """Remove a tenant with its keys and grants; its entries in the audit trail stay.

        Raises:
            UnknownSubject: no such tenant.
        """
        with self._database.writing() as session:
            _find(session, tenant)
            session.execute(delete(TenantRow).where(TenantRow.id == tenant))
            self._note(session, actor, "tenant.delete", tenant, {})

    def create_key(
        self, tenant: str, *, label: str = "", expires_s: float | None = None, actor: str
    ) -> IssuedKey:
        """Create another key for a tenant.

        Raises:
            UnknownSubject: no such tenant.
        """
        with self._database.writing() as session:
            _find(session, tenant)
            return self._add_key(session, tenant, label, expires_s, actor, "key.create", {})

    def rotate_key(self, key_id: str, *, overlap_s: float, actor: str) -> IssuedKey:
        """Replace a key by a new one; the old key works for ``overlap_s`` more seconds.

        Raises:
            UnknownSubject: no such key, or it is revoked or expired.
        """
        now_s = self._now_s()
        with self._database.writing() as session:
            row = session.get(KeyRow, key_id)
            if row is None or not _key(row).is_valid(now_s):
                raise UnknownSubject(f'there is no valid key "{key_id}"', param="key")
            # The new key has the same lifetime, so that rotation does not make a temporary key permanent.
            lifetime_s = None if row.expires_s is None else row.expires_s - row.created_s
            expires_s = None if lifetime_s is None else now_s + lifetime_s
            ends_s = now_s + overlap_s
            row.expires_s = ends_s if row.expires_s is None else min(row.expires_s, ends_s)
            return self._add_key(
                session, row.tenant_id, row.label, expires_s, actor, "key.rotate", {"replaces": key_id}
            )

    def revoke_key(self, key_id: str, *, actor: str) -> Key:
        """Revoke a key permanently.

        Raises:
            UnknownSubject: no such key.
        """
        with self._database.writing() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise UnknownSubject(f'there is no key "{key_id}"', param="key")
            if row.revoked_s is None:
                row.revoked_s = self._now_s()
                self._note(session, actor, "key.revoke", key_id, {"tenant": row.tenant_id})
            return _key(row)

    def keys(self, tenant: str) -> Sequence[Key]:
        """The tenant's keys, oldest first, including revoked and expired ones.

        Raises:
            UnknownSubject: no such tenant.
        """
        chosen = select(KeyRow).where(KeyRow.tenant_id == tenant).order_by(KeyRow.created_s, KeyRow.id)
        with self._database.reading() as session:
            _find(session, tenant)
            return [_key(row) for row in session.scalars(chosen)]

    def find_key(self, key_id: str) -> KnownKey | None:
        """The key with this id and its tenant, valid or not; None if there is no such key."""
        with self._database.reading() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                return None
            tenant = _tenant(_find(session, row.tenant_id), _granted(session, row.tenant_id))
            return KnownKey(_key(row), tenant, row.salt, row.digest)

    def changes(self, *, limit: int = 100) -> Sequence[audit.Change]:
        """The latest changes, newest first."""
        return audit.changes(self._database, limit=limit)

    def _add_key(
        self,
        session: Session,
        tenant: str,
        label: str,
        expires_s: float | None,
        actor: str,
        action: str,
        detail: dict[str, Any],
    ) -> IssuedKey:
        made = new_key()
        row = KeyRow(
            id=made.id,
            tenant_id=tenant,
            label=label,
            salt=made.salt,
            digest=made.digest,
            created_s=self._now_s(),
            expires_s=expires_s,
            revoked_s=None,
        )
        session.add(row)
        self._note(session, actor, action, made.id, detail | {"tenant": tenant, "label": label})
        session.flush()
        return IssuedKey(_key(row), made.text)

    def _note(self, session: Session, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
        audit.note(session, self._now_s(), actor, action, subject, detail)


def _find(session: Session, tenant: str) -> TenantRow:
    row = session.get(TenantRow, tenant)
    if row is None:
        raise UnknownSubject(f'there is no tenant "{tenant}"', param="tenant")
    return row


def _granted(session: Session, tenant: str) -> frozenset[str]:
    return frozenset(session.scalars(select(GrantRow.adapter).where(GrantRow.tenant_id == tenant)))


def _tenant(row: TenantRow, granted: frozenset[str]) -> Tenant:
    limits = Limits(
        row.requests_in_flight,
        row.requests_per_minute,
        row.tokens_per_minute,
        row.highest_priority,
        row.max_prompt_tokens,
    )
    return Tenant(row.id, row.weight, limits, _cache_salt(row), granted)


def _cache_salt(row: TenantRow) -> str:
    """Another one for each tenant, and for each that had the same id before it. It is no secret: a request's
    own salt never reaches an engine."""
    return hashlib.sha256(f"dear cache salt\0{row.id}\0{row.created_s!r}".encode()).hexdigest()


def _key(row: KeyRow) -> Key:
    return Key(row.id, row.tenant_id, row.label, row.created_s, row.expires_s, row.revoked_s)
