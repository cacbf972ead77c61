"""The audit trail: who changed what. An entry is written in the same transaction as its change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dear_serving.registry.database import Database
from dear_serving.registry.tables import AuditRow


@dataclass(frozen=True, slots=True)
class Change:
    """One entry. ``at_s`` is seconds since the epoch."""

    at_s: float
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


def note(
    session: Session, at_s: float, actor: str, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    """Add an entry to the current transaction."""
    session.add(AuditRow(at_s=at_s, actor=actor, action=action, subject=subject, detail=dict(detail)))


def changes(database: Database, *, limit: int = 100) -> Sequence[Change]:
    """The latest entries, newest first."""
    chosen = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    with database.reading() as session:
        return [
            Change(row.at_s, row.actor, row.action, row.subject, row.detail)
            for row in session.scalars(chosen)
        ]
