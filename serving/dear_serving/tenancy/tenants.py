"""Tenants, their keys, limits and grants, as the registry keeps them."""

from __future__ import annotations

import secrets
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
"""The tenant of callers without a key of their own: of an open server, and of keys from the environment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may ask of each gateway replica; None does not bind. Tokens are those of all windows."""

    requests_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who a request is for.

    Args:
        id: its name, in metrics and messages.
        weight: share of a saturated engine, in proportion to the other tenants'.
        limits: see Limits.
        cache_salt: keeps its prompts' cached prefixes to itself; None shares them with all who have none.
        granted: adapters beside the shared ones that it may use.
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
        """Whether it opens the door now."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key just made, with the only copy of its text."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class KnownKey:
    """What a gateway needs to let a caller in."""

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
        """A new tenant.

        Raises:
            AlreadyThere: there is one of that id.
        """
        row = TenantRow(
            id=tenant,
            weight=weight,
            **asdict(limits),
            cache_salt=secrets.token_hex(16),
            created_s=self._now_s(),
        )
        try:
            with self._database.writing() as session:
                session.add(row)
                session.flush()
                self._note(session, actor, "tenant.create", tenant, {"weight": weight, **asdict(limits)})
                return _tenant(row, frozenset())
        except IntegrityError:
            raise AlreadyThere(f'there is a tenant "{tenant}" already', param="id") from None

    def change(self, tenant: str, changes: Mapping[str, Any], *, actor: str) -> Tenant:
        """Set weight and limits, those given.

        Args:
            changes: of ``weight`` and the fields of Limits.

        Raises:
            UnknownSubject: there is no such tenant.
        """
        with self._database.writing() as session:
            row = _find(session, tenant)
            for name, value in changes.items():
                setattr(row, name, value)
            self._note(session, actor, "tenant.change", tenant, dict(changes))
            return _tenant(row, _granted(session, tenant))

    def get(self, tenant: str) -> Tenant:
        """The tenant of that id.

        Raises:
            UnknownSubject: there is none.
        """
        with self._database.reading() as session:
            return _tenant(_find(session, tenant), _granted(session, tenant))

    def list(self, *, after: str = "", limit: int = 100) -> Sequence[Tenant]:
        """At most ``limit`` tenants by id, those behind ``after``."""
        chosen = select(TenantRow).where(TenantRow.id > after).order_by(TenantRow.id).limit(limit)
        with self._database.reading() as session:
            rows = session.scalars(chosen).all()
            granted: dict[str, set[str]] = {row.id: set() for row in rows}
            for grant in session.scalars(select(GrantRow).where(GrantRow.tenant_id.in_(granted))):
                granted[grant.tenant_id].add(grant.adapter)
            return [_tenant(row, frozenset(granted[row.id])) for row in rows]

    def grant(self, tenant: str, adapter: str, *, actor: str) -> Tenant:
        """Let the tenant use an adapter that is not shared; nothing changes where it may already.

        Raises:
            UnknownSubject: there is no such tenant.
        """
        with self._database.writing() as session:
            row = _find(session, tenant)
            if session.get(GrantRow, (tenant, adapter)) is None:
                session.add(GrantRow(tenant_id=tenant, adapter=adapter))
                self._note(session, actor, "grant.add", tenant, {"adapter": adapter})
                session.flush()
            return _tenant(row, _granted(session, tenant))

    def revoke_grant(self, tenant: str, adapter: str, *, actor: str) -> Tenant:
        """Take the adapter from the tenant again.

        Raises:
            UnknownSubject: there is no such tenant, or it did not have the adapter.
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
        """Remove the tenant with its keys and grants; its entries in the audit trail stay.

        Raises:
            UnknownSubject: there is no such tenant.
        """
        with self._database.writing() as session:
            _find(session, tenant)
            session.execute(delete(TenantRow).where(TenantRow.id == tenant))
            self._note(session, actor, "tenant.delete", tenant, {})

    def create_key(
        self, tenant: str, *, label: str = "", expires_s: float | None = None, actor: str
    ) -> IssuedKey:
        """A new key of a tenant, beside those it has.

        Raises:
            UnknownSubject: there is no such tenant.
        """
        with self._database.writing() as session:
            _find(session, tenant)
            return self._add_key(session, tenant, label, expires_s, actor, "key.create", {})

    def rotate_key(self, key_id: str, *, overlap_s: float, actor: str) -> IssuedKey:
        """A new key in place of one, which goes on working for ``overlap_s`` seconds.

        Raises:
            UnknownSubject: there is no such key, or it is revoked or expired.
        """
        now_s = self._now_s()
        with self._database.writing() as session:
            row = session.get(KeyRow, key_id)
            if row is None or not _key(row).is_valid(now_s):
                raise UnknownSubject(f'there is no valid key "{key_id}"', param="key")
            # A key given for a time is not made to last by rotating it.
            lifetime_s = None if row.expires_s is None else row.expires_s - row.created_s
            expires_s = None if lifetime_s is None else now_s + lifetime_s
            ends_s = now_s + overlap_s
            row.expires_s = ends_s if row.expires_s is None else min(row.expires_s, ends_s)
            return self._add_key(
                session, row.tenant_id, row.label, expires_s, actor, "key.rotate", {"replaces": key_id}
            )

    def revoke_key(self, key_id: str, *, actor: str) -> Key:
        """Shut the key out, for good.

        Raises:
            UnknownSubject: there is no such key.
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
        """The tenant's keys, oldest first, revoked and expired ones too.

        Raises:
            UnknownSubject: there is no such tenant.
        """
        chosen = select(KeyRow).where(KeyRow.tenant_id == tenant).order_by(KeyRow.created_s, KeyRow.id)
        with self._database.reading() as session:
            _find(session, tenant)
            return [_key(row) for row in session.scalars(chosen)]

    def find_key(self, key_id: str) -> KnownKey | None:
        """The key of that id with its tenant, valid or not; None where there is none."""
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
    limits = Limits(row.requests_in_flight, row.requests_per_minute, row.tokens_per_minute)
    return Tenant(row.id, row.weight, limits, row.cache_salt, granted)


def _key(row: KeyRow) -> Key:
    return Key(row.id, row.tenant_id, row.label, row.created_s, row.expires_s, row.revoked_s)
