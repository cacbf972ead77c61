"""Who lives: gateways with the versions they go by, engine replicas with the revisions they hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from dear_serving.registry.database import Database
from dear_serving.registry.tables import GatewayRow, HoldingRow, ReplicaRow

HEARTBEAT_S = 2.0
"""How often those who live say so."""

_LIVES_S = 6.0
_REASON_CHARS = 500


@dataclass(frozen=True, slots=True)
class GatewayHeartbeat:
    """A gateway replica. ``adopted``: the registry's version that new requests go by; ``oldest``: the one
    that the oldest of its requests began with."""

    id: str
    adopted: int
    oldest: int


@dataclass(frozen=True, slots=True)
class ReplicaHeartbeat:
    """An engine replica. ``holds``: ids of revisions; None for those loaded, else why they could not be.
    ``adopted``: the registry's version that it has brought itself to."""

    id: str
    adopted: int
    holds: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Alive:
    """All that were seen lately; replicas by id."""

    gateways: Sequence[GatewayHeartbeat]
    replicas: Sequence[ReplicaHeartbeat]

    def adopted(self, version: int) -> bool:
        """Whether all gateways go by that version or a later one."""
        return all(gateway.adopted >= version for gateway in self.gateways)

    def left(self, version: int) -> bool:
        """Whether no request goes on that began before that version."""
        return all(gateway.oldest >= version for gateway in self.gateways)


class Heartbeats:
    """The registry's account of who lives. Methods block.

    All raise RegistryUnavailable while the database does not answer.

    Args:
        database: the registry.
        now_s: seconds since the epoch; of all machines, within a few seconds.
    """

    def __init__(self, database: Database, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s

    def report_gateway(self, gateway: GatewayHeartbeat) -> None:
        """A gateway says so."""
        with self._database.writing() as session:
            session.merge(
                GatewayRow(
                    id=gateway.id, adopted=gateway.adopted, oldest=gateway.oldest, seen_s=self._now_s()
                )
            )

    def report_replica(self, replica: ReplicaHeartbeat) -> None:
        """An engine replica says so, with all that it holds."""
        with self._database.writing() as session:
            session.merge(ReplicaRow(id=replica.id, adopted=replica.adopted, seen_s=self._now_s()))
            session.flush()
            session.execute(delete(HoldingRow).where(HoldingRow.replica_id == replica.id))
            for revision, reason in replica.holds.items():
                cut = reason and reason[:_REASON_CHARS]
                session.add(HoldingRow(replica_id=replica.id, revision=revision, reason=cut))

    def alive(self) -> Alive:
        """Those who said so in the last six seconds."""
        since_s = self._now_s() - _LIVES_S
        with self._database.reading() as session:
            gateways = session.scalars(select(GatewayRow).where(GatewayRow.seen_s >= since_s)).all()
            replicas = session.scalars(select(ReplicaRow).where(ReplicaRow.seen_s >= since_s)).all()
            adopted = {row.id: row.adopted for row in replicas}
            holds: dict[str, dict[str, str | None]] = {replica: {} for replica in sorted(adopted)}
            for row in session.scalars(select(HoldingRow).where(HoldingRow.replica_id.in_(holds))):
                holds[row.replica_id][row.revision] = row.reason
            lives = [GatewayHeartbeat(row.id, row.adopted, row.oldest) for row in gateways]
        return Alive(
            lives, [ReplicaHeartbeat(replica, adopted[replica], held) for replica, held in holds.items()]
        )

    def forget(self, id: str) -> None:
        """A gateway or replica ends."""
        with self._database.writing() as session:
            session.execute(delete(GatewayRow).where(GatewayRow.id == id))
            session.execute(delete(ReplicaRow).where(ReplicaRow.id == id))

    def drop_expired(self) -> None:
        """Drop the rows of those who ended without a word."""
        since_s = self._now_s() - 10 * _LIVES_S
        with self._database.writing() as session:
            session.execute(delete(GatewayRow).where(GatewayRow.seen_s < since_s))
            session.execute(delete(ReplicaRow).where(ReplicaRow.seen_s < since_s))
