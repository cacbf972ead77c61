"""Which processes are alive: gateways with their registry version, replicas with their revisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select

from dear_serving.registry.database import Database
from dear_serving.registry.tables import GatewayRow, HoldingRow, ReplicaRow

HEARTBEAT_S = 2.0
"""How often a process reports, in seconds."""

_EXPIRES_S = 6.0
_REASON_CHARS = 500


@dataclass(frozen=True, slots=True)
class GatewayHeartbeat:
    """A gateway's report. ``adopted``: the registry version for its new requests; ``oldest``: the oldest
    version that a running request uses."""

    id: str
    adopted: int
    oldest: int


@dataclass(frozen=True, slots=True)
class ReplicaHeartbeat:
    """A replica's report. ``holds``: revision id -> None if loaded, else why loading failed. ``adopted``: the
    registry version that the replica is in sync with."""

    id: str
    adopted: int
    holds: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Alive:
    """All processes with a recent report; replicas are sorted by id."""

    gateways: Sequence[GatewayHeartbeat]
    replicas: Sequence[ReplicaHeartbeat]

    def adopted(self, version: int) -> bool:
        """Whether all gateways use this version or a later one."""
        return all(gateway.adopted >= version for gateway in self.gateways)

    def all_began_at(self, version: int) -> bool:
        """Whether every running request began with this version or a later one."""
        return all(gateway.oldest >= version for gateway in self.gateways)


class Heartbeats:
    """The registry's tables of live processes. Methods block.

    All raise RegistryUnavailable while the database does not answer.

    Args:
        database: the registry.
        now_s: seconds since the epoch; the clocks of all machines must agree within a few seconds.
    """

    def __init__(self, database: Database, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s

    def report_gateway(self, gateway: GatewayHeartbeat) -> None:
        """Store a gateway's report."""
        with self._database.writing() as session:
            session.merge(
                GatewayRow(
                    id=gateway.id, adopted=gateway.adopted, oldest=gateway.oldest, seen_s=self._now_s()
                )
            )

    def report_replica(self, replica: ReplicaHeartbeat) -> None:
        """Store a replica's report with its revisions."""
        with self._database.writing() as session:
            session.merge(ReplicaRow(id=replica.id, adopted=replica.adopted, seen_s=self._now_s()))
            session.flush()
            session.execute(delete(HoldingRow).where(HoldingRow.replica_id == replica.id))
            for revision, reason in replica.holds.items():
                cut = reason and reason[:_REASON_CHARS]
                session.add(HoldingRow(replica_id=replica.id, revision=revision, reason=cut))

    def alive(self) -> Alive:
        """The processes that reported in the last six seconds."""
        since_s = self._now_s() - _EXPIRES_S
        with self._database.reading() as session:
            gateways = session.scalars(select(GatewayRow).where(GatewayRow.seen_s >= since_s)).all()
            replicas = session.scalars(select(ReplicaRow).where(ReplicaRow.seen_s >= since_s)).all()
            adopted = {row.id: row.adopted for row in replicas}
            holds: dict[str, dict[str, str | None]] = {replica: {} for replica in sorted(adopted)}
            for row in session.scalars(select(HoldingRow).where(HoldingRow.replica_id.in_(holds))):
                holds[row.replica_id][row.revision] = row.reason
            return Alive(
                [GatewayHeartbeat(row.id, row.adopted, row.oldest) for row in gateways],
                [ReplicaHeartbeat(replica, adopted[replica], held) for replica, held in holds.items()],
            )

    def forget(self, id: str) -> None:
        """Remove a gateway or replica that is shutting down."""
        with self._database.writing() as session:
            session.execute(delete(GatewayRow).where(GatewayRow.id == id))
            session.execute(delete(ReplicaRow).where(ReplicaRow.id == id))

    def drop_expired(self) -> None:
        """Remove the processes whose last report is over a minute old."""
        since_s = self._now_s() - 10 * _EXPIRES_S
        with self._database.writing() as session:
            session.execute(delete(GatewayRow).where(GatewayRow.seen_s < since_s))
            session.execute(delete(ReplicaRow).where(ReplicaRow.seen_s < since_s))
