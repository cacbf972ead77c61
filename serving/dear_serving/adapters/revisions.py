"""Adapters and their revisions in the registry: the state of each revision and the pointers of names.

A public name points at an immutable revision, ``name@digest``; a swap moves the pointer. States of a
revision::

    registered --> staged --> active --> draining --> retired
        |            '----------------------^           |
        '--> failed ---------> registered <-------------'

Every change first increments the registry's version number, so that changes run one after another on every
database.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from dear_serving.errors import AlreadyThere, CapacityReached, UnknownSubject
from dear_serving.registry.audit import note
from dear_serving.registry.changes import Changes
from dear_serving.registry.database import Database
from dear_serving.registry.tables import (
    DEFAULT_CLUSTER,
    AdapterRow,
    GrantRow,
    RevisionRow,
    TenantRow,
    VersionRow,
)

_REASON_CHARS = 500
_SHORT_DIGEST = 12
_DIGEST = re.compile(r"[0-9a-f]{6,64}")

T = TypeVar("T")


class State(Enum):
    """The state of a revision."""

    REGISTERED = "registered"
    """Checked and in the store; engine replicas are loading it."""
    STAGED = "staged"
    """Loaded on every engine replica, and the canary passed: a name may point at it."""
    ACTIVE = "active"
    """Its name points at it."""
    DRAINING = "draining"
    """Its name no longer points at it; requests that began with it continue."""
    RETIRED = "retired"
    """Not on the engines; still in the store."""
    FAILED = "failed"
    """An engine replica could not load it, or the canary failed; ``reason`` says why."""


ON_ENGINES = (State.REGISTERED, State.STAGED, State.ACTIVE, State.DRAINING)
"""States in which a revision is wanted on every engine replica."""

_OFF_ENGINES = (State.RETIRED, State.FAILED)


@dataclass(frozen=True, slots=True)
class Content:
    """An adapter's checked files. ``digest``: 64 hex digits; see adapters.preflight.digest."""

    digest: str
    rank: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Revision:
    """An immutable version of an adapter's weights and settings. Times are seconds since the epoch.

    ``activate``: the revision becomes active as soon as it is staged. ``version``: the registry's version at
    the last change of its state.
    """

    name: str
    digest: str
    state: State
    reason: str | None
    template: str
    rank: int
    size_bytes: int
    activate: bool
    version: int
    created_s: float
    changed_s: float

    @property
    def id(self) -> str:
        """The revision's name in the engines; never reused for other weights."""
        return revision_id(self.name, self.digest)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A public name. ``active`` and ``previous`` are revision ids; ``revisions`` are newest first."""

    name: str
    shared: bool
    active: str | None
    previous: str | None
    created_s: float
    revisions: Sequence[Revision]


@dataclass(frozen=True, slots=True)
class Pointers:
    """The active revision of every name, at one version of the registry."""

    version: int
    active: Mapping[str, Revision]
    shared: frozenset[str]


class Adapters:
    """Reads and changes adapters. Every change is one transaction with its audit entry; methods block.

    All raise RegistryUnavailable while the database does not answer.

    Args:
        database: the registry.
        capacity: how many revisions may be on the engines at once.
        now_s: seconds since the epoch.
        cluster: the deployment whose names and revisions these are. Others in the same registry have names,
            pointers and states of their own, and share tenants, keys and the store.
    """

    def __init__(
        self,
        database: Database,
        capacity: int,
        now_s: Callable[[], float] = time.time,
        *,
        cluster: str = DEFAULT_CLUSTER,
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._now_s = now_s
        self._cluster = cluster

    def register(
        self,
        name: str,
        content: Content,
        *,
        template: str,
        shared: bool | None = None,
        tenants: Iterable[str] = (),
        activate: bool = False,
        actor: str,
    ) -> Revision:
        """Register a new or known revision of a name. A revision on the engines stays as it is.

        Args:
            name: public name; created if new.
            content: the revision's files in the store.
            template: prompt template that the adapter was trained with.
            shared: whether every tenant may use the name; None: unchanged, for a new name True unless
                ``tenants`` are given.
            tenants: tenants that get a grant of the name.
            activate: whether the revision becomes active as soon as it is staged.
            actor: who makes the change, for the audit trail.

        Raises:
            AlreadyThere: the revision is on the engines with another template.
            CapacityReached: the engines hold ``capacity`` revisions.
            UnknownSubject: no such tenant.
        """

        def change(session: Session, version: int) -> Revision:
            granted = tuple(tenants)
            adapter = self._get(session, name)
            if adapter is None:
                adapter = self._add_adapter(session, name)
                adapter.shared = not granted
            if shared is not None:
                adapter.shared = shared
            self._grant(session, name, granted, actor)
            row = self._put(session, version, name, content, template)
            if row.template != template:
                raise AlreadyThere(
                    f'"{revision_id(name, row.digest)}" is in use with template "{row.template}"; '
                    "retire it first",
                    param="template",
                )
            detail = {"bytes": content.size_bytes, "rank": content.rank, "template": template}
            self._note(session, actor, "adapter.register", row, detail | {"activate": activate})
            if activate:
                self._activate(session, adapter, row, version)
            return _revision(row)

        return self._change(change)

    def activate(self, name: str, revision: str, *, actor: str) -> Revision:
        """Point a name at a revision: now if the revision is staged, else as soon as it is.

        Args:
            name: the public name.
            revision: ``name@digest``, the digest, or at least its first six digits.
            actor: who makes the change, for the audit trail.

        Raises:
            UnknownSubject: no such adapter or revision.
            CapacityReached: the revision is not on the engines, and they hold ``capacity`` revisions.
        """

        def change(session: Session, version: int) -> Revision:
            adapter = self._find(session, name)
            row = self._find_revision(session, name, revision)
            self._note(session, actor, "adapter.activate", row, {})
            self._activate(session, adapter, row, version)
            return _revision(row)

        return self._change(change)

    def rollback(self, name: str, revision: str | None = None, *, actor: str) -> Revision:
        """Activate the revision that the name pointed at before.

        Args:
            name: the public name.
            revision: the revision that is expected, as in ``activate``; None: whichever it is.
            actor: who makes the change, for the audit trail.

        Raises:
            UnknownSubject: no such adapter, or it has no earlier revision, or another one than expected.
            CapacityReached: as in ``activate``.
        """

        def change(session: Session, version: int) -> Revision:
            adapter = self._find(session, name)
            if adapter.previous is None:
                raise UnknownSubject(f'"{name}" has no earlier revision to go back to', param="name")
            row = self._find_revision(session, name, adapter.previous)
            if revision is not None and self._find_revision(session, name, revision) is not row:
                raise UnknownSubject(
                    f'"{name}" would go back to "{revision_id(name, row.digest)}", not to "{revision}"',
                    param="revision",
                )
            self._note(session, actor, "adapter.rollback", row, {})
            self._activate(session, adapter, row, version)
            return _revision(row)

        return self._change(change)

    def retire(self, name: str, revision: str | None = None, *, actor: str) -> Adapter:
        """Retire a revision, or all revisions of a name.

        Raises:
            UnknownSubject: no such adapter or revision.
        """

        def change(session: Session, version: int) -> Adapter:
            adapter = self._find(session, name)
            rows = (
                self._rows(session, name)
                if revision is None
                else [self._find_revision(session, name, revision)]
            )
            self._retire(session, adapter, rows, version, actor)
            return self._adapter(session, adapter)

        return self._change(change)

    def share(self, name: str, shared: bool, *, actor: str) -> Adapter:
        """Share a name with every tenant, or only with those that have a grant.

        Raises:
            UnknownSubject: no such adapter.
        """

        def change(session: Session, version: int) -> Adapter:
            adapter = self._find(session, name)
            adapter.shared = shared
            note(session, self._now_s(), actor, "adapter.share", name, {"shared": shared})
            return self._adapter(session, adapter)

        return self._change(change)

    def staged(self, revision: Revision) -> None:
        """Mark a revision as staged, and activate it if it is registered with ``activate``."""

        def change(session: Session, version: int) -> None:
            row = self._unmoved(session, revision, State.REGISTERED)
            activate = row.activate
            self._move(row, State.STAGED, version)
            if activate:
                self._point(session, self._find(session, row.name), row, version)

        self._unless_late(change)

    def failed(self, revision: Revision, reason: str) -> None:
        """Mark a revision as failed; ``reason`` is one sentence."""

        def change(session: Session, version: int) -> None:
            row = self._unmoved(session, revision, State.REGISTERED)
            self._move(row, State.FAILED, version, reason=reason)
            self._note(session, "server", "adapter.fail", row, {"reason": reason})

        self._unless_late(change)

    def drained(self, revision: Revision) -> None:
        """Mark a revision as retired: no request uses it any more, and the engines may unload it."""

        def change(session: Session, version: int) -> None:
            self._move(self._unmoved(session, revision, State.DRAINING), State.RETIRED, version)

        self._unless_late(change)

    def register_configured(self, names: Mapping[str, tuple[Content, str, bool]]) -> None:
        """Register the adapters in the settings, before gateways and replicas start.

        An adapter whose content differs from the last start is activated: at once if the name has no active
        revision, else after staging. The same content changes nothing, so that a swap or a retirement
        survives a restart. Names that were in the settings at the last start, but no longer, are retired.

        Args:
            names: public name -> content, template, and whether it is shared.

        Raises:
            CapacityReached: more adapters than the engines may hold.
        """

        def change(session: Session, version: int) -> None:
            gone = self._names().where(AdapterRow.seeded.is_not(None), AdapterRow.name.not_in(list(names)))
            for adapter in session.scalars(gone).all():
                adapter.seeded = None
                self._retire(session, adapter, self._rows(session, adapter.name), version, "settings")
            for name, (content, template, shared) in names.items():
                adapter = self._get(session, name) or self._add_adapter(session, name)
                changed = adapter.seeded != content.digest
                adapter.seeded, adapter.shared = content.digest, shared
                if changed:
                    row = self._put(session, version, name, content, template, room=2)
                    self._note(session, "settings", "adapter.register", row, {"template": template})
                    if adapter.active is None:
                        self._point(session, adapter, row, version)
                    else:
                        self._activate(session, adapter, row, version, room=2)
                known = session.get(RevisionRow, (self._cluster, name, content.digest))
                if known is not None:
                    known.template = template

        self._change(change)

    def get(self, name: str) -> Adapter:
        """The adapter with this name.

        Raises:
            UnknownSubject: no such adapter.
        """
        with self._database.reading() as session:
            return self._adapter(session, self._find(session, name))

    def list(self, *, after: str = "", limit: int = 100) -> Sequence[Adapter]:
        """At most ``limit`` adapters in order of their names, from the first name after ``after``."""
        chosen = self._names().where(AdapterRow.name > after).order_by(AdapterRow.name).limit(limit)
        with self._database.reading() as session:
            return [self._adapter(session, row) for row in session.scalars(chosen).all()]

    def changes(self, *, reports: bool = False) -> Changes:
        """Wakes a loop when the version of this cluster grows, and when its processes report, if asked to."""
        topics = ("version", "reports") if reports else ("version",)
        return Changes(self._database, [f"{self._cluster}/{topic}" for topic in topics])

    def version(self) -> int:
        """The registry's current version."""
        with self._database.reading() as session:
            return session.scalars(select(VersionRow.number)).one()

    def pointers(self) -> Pointers:
        """The current pointers. The version is read first, so that it is never newer than the pointers."""
        pointed = (
            select(AdapterRow, RevisionRow)
            .join(
                RevisionRow,
                (RevisionRow.cluster == AdapterRow.cluster)
                & (RevisionRow.name == AdapterRow.name)
                & (RevisionRow.digest == AdapterRow.active),
            )
            .where(AdapterRow.cluster == self._cluster)
        )
        with self._database.reading() as session:
            version = session.scalars(select(VersionRow.number)).one()
            found = session.execute(pointed.order_by(AdapterRow.name)).all()
            return Pointers(
                version,
                {adapter.name: _revision(row) for adapter, row in found},
                frozenset(adapter.name for adapter, _ in found if adapter.shared),
            )

    def wanted_on_engines(self) -> tuple[int, Sequence[Revision]]:
        """The registry's version, and the revisions wanted on engine replicas, oldest first."""
        wanted = [state.value for state in ON_ENGINES]
        chosen = self._revisions().where(RevisionRow.state.in_(wanted))
        chosen = chosen.order_by(RevisionRow.created_s, RevisionRow.name, RevisionRow.digest)
        with self._database.reading() as session:
            version = session.scalars(select(VersionRow.number)).one()
            return version, [_revision(row) for row in session.scalars(chosen)]

    def _change(self, change: Callable[[Session, int], T]) -> T:
        """Run a change in one transaction, with the next version of the registry."""
        with self._database.writing() as session:
            counter = session.get_one(VersionRow, 1, with_for_update=True)
            counter.number += 1
            session.flush()
            self._database.tell(session, f"{self._cluster}/version")
            return change(session, counter.number)

    def _unless_late(self, change: Callable[[Session, int], None]) -> None:
        """Run a change of a revision; do nothing if its state changed since it was read."""
        with contextlib.suppress(_StateChanged):
            self._change(change)

    def _add_adapter(self, session: Session, name: str) -> AdapterRow:
        adapter = AdapterRow(
            cluster=self._cluster,
            name=name,
            shared=True,
            seeded=None,
            active=None,
            previous=None,
            created_s=self._now_s(),
        )
        session.add(adapter)
        session.flush()
        return adapter

    def _put(
        self, session: Session, version: int, name: str, content: Content, template: str, room: int = 1
    ) -> RevisionRow:
        """The content's row, in a state that is wanted on engines."""
        row = session.get(RevisionRow, (self._cluster, name, content.digest))
        if row is None:
            self._need_room(session, room)
            now_s = self._now_s()
            row = RevisionRow(
                cluster=self._cluster,
                name=name,
                digest=content.digest,
                state=State.REGISTERED.value,
                reason=None,
                template=template,
                rank=content.rank,
                size_bytes=content.size_bytes,
                activate=False,
                version=version,
                created_s=now_s,
                changed_s=now_s,
            )
            session.add(row)
            session.flush()
        elif State(row.state) in _OFF_ENGINES:
            self._register_again(session, row, version, room)
            row.template = template
        elif row.state == State.DRAINING.value and row.template == template:
            self._move(row, State.STAGED, version)
        return row

    def _register_again(self, session: Session, row: RevisionRow, version: int, room: int) -> None:
        self._need_room(session, room)
        self._move(row, State.REGISTERED, version)

    def _need_room(self, session: Session, room: int) -> None:
        """Check the capacity. Engines have room for twice as many: for draining revisions, and for a start
        with changed settings (``room`` 2)."""
        count = select(func.count()).where(RevisionRow.cluster == self._cluster)
        staying_states = [state.value for state in ON_ENGINES if state is not State.DRAINING]
        staying = session.scalars(count.where(RevisionRow.state.in_(staying_states))).one()
        draining = session.scalars(count.where(RevisionRow.state == State.DRAINING.value)).one()
        if staying >= room * self._capacity or staying + draining >= 2 * self._capacity:
            raise CapacityReached(
                f"the engines hold {self._capacity} revisions, adapters.capacity; retire one first"
            )

    def _activate(
        self, session: Session, adapter: AdapterRow, row: RevisionRow, version: int, room: int = 1
    ) -> None:
        """Point the name at the revision, now or once it is staged; cancels earlier pending activations."""
        for other in self._rows(session, adapter.name):
            other.activate = False
        if State(row.state) in _OFF_ENGINES:
            self._register_again(session, row, version, room)
        if row.state == State.REGISTERED.value:
            row.activate = True
        elif row.state != State.ACTIVE.value:
            self._point(session, adapter, row, version)
        session.flush()

    def _point(self, session: Session, adapter: AdapterRow, row: RevisionRow, version: int) -> None:
        if adapter.active is not None:
            before = session.get_one(RevisionRow, (self._cluster, adapter.name, adapter.active))
            self._move(before, State.DRAINING, version)
            adapter.previous = adapter.active
        elif adapter.previous == row.digest:  # back from retirement: no earlier revision is known
            adapter.previous = None
        adapter.active = row.digest
        self._move(row, State.ACTIVE, version)
        session.flush()

    def _retire(
        self,
        session: Session,
        adapter: AdapterRow,
        rows: Iterable[RevisionRow],
        version: int,
        actor: str,
    ) -> None:
        for row in rows:
            if adapter.active == row.digest:
                adapter.active, adapter.previous = None, row.digest
            if State(row.state) in ON_ENGINES and row.state != State.DRAINING.value:
                self._move(row, State.DRAINING, version)
                self._note(session, actor, "adapter.retire", row, {})
        session.flush()

    def _move(self, row: RevisionRow, state: State, version: int, *, reason: str | None = None) -> None:
        row.state, row.version, row.activate = state.value, version, False
        row.reason = reason and reason[:_REASON_CHARS]
        row.changed_s = self._now_s()

    def _grant(self, session: Session, name: str, tenants: Iterable[str], actor: str) -> None:
        for tenant in tenants:
            if session.get(TenantRow, tenant) is None:
                raise UnknownSubject(f'there is no tenant "{tenant}"', param="tenants")
            if session.get(GrantRow, (tenant, name)) is None:
                session.add(GrantRow(tenant_id=tenant, adapter=name))
                note(session, self._now_s(), actor, "grant.add", tenant, {"adapter": name})

    def _note(
        self, session: Session, actor: str, action: str, row: RevisionRow, detail: Mapping[str, Any]
    ) -> None:
        where = {} if self._cluster == DEFAULT_CLUSTER else {"cluster": self._cluster}
        note(session, self._now_s(), actor, action, revision_id(row.name, row.digest), {**detail, **where})

    def _names(self) -> Select[AdapterRow]:
        return select(AdapterRow).where(AdapterRow.cluster == self._cluster)

    def _revisions(self) -> Select[RevisionRow]:
        return select(RevisionRow).where(RevisionRow.cluster == self._cluster)

    def _get(self, session: Session, name: str) -> AdapterRow | None:
        return session.get(AdapterRow, (self._cluster, name))

    def _find(self, session: Session, name: str) -> AdapterRow:
        row = self._get(session, name)
        if row is None:
            raise UnknownSubject(f'there is no adapter "{name[:128]}"', param="name")
        return row

    def _find_revision(self, session: Session, name: str, given: str) -> RevisionRow:
        digest = given.removeprefix(f"{name}@").lower()
        rows = self._rows(session, name) if _DIGEST.fullmatch(digest) else []
        found = [row for row in rows if row.digest.startswith(digest)]
        if len(found) != 1:
            count = "no" if not found else "more than one"
            raise UnknownSubject(f'"{name}" has {count} revision "{given[:160]}"', param="revision")
        return found[0]

    def _rows(self, session: Session, name: str) -> Sequence[RevisionRow]:
        chosen = self._revisions().where(RevisionRow.name == name)
        return session.scalars(chosen.order_by(RevisionRow.created_s.desc(), RevisionRow.digest)).all()

    def _unmoved(self, session: Session, revision: Revision, state: State) -> RevisionRow:
        row = session.get_one(RevisionRow, (self._cluster, revision.name, revision.digest))
        if (row.state, row.version) != (state.value, revision.version):
            raise _StateChanged
        return row

    def _adapter(self, session: Session, row: AdapterRow) -> Adapter:
        return Adapter(
            name=row.name,
            shared=row.shared,
            active=row.active and revision_id(row.name, row.active),
            previous=row.previous and revision_id(row.name, row.previous),
            created_s=row.created_s,
            revisions=[_revision(revision_row) for revision_row in self._rows(session, row.name)],
        )


class _StateChanged(Exception):
    """Another process changed the revision first."""


def revision_id(name: str, digest: str) -> str:
    """``name@`` and the digest's first twelve digits."""
    return f"{name}@{digest[:_SHORT_DIGEST]}"


def _revision(row: RevisionRow) -> Revision:
    return Revision(
        name=row.name,
        digest=row.digest,
        state=State(row.state),
        reason=row.reason,
        template=row.template,
        rank=row.rank,
        size_bytes=row.size_bytes,
        activate=row.activate,
        version=row.version,
        created_s=row.created_s,
        changed_s=row.changed_s,
    )
