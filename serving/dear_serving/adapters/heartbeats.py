"""Which processes are alive: gateways with their registry version, replicas with their revisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from dear_serving.registry.database import Database
from dear_serving.registry.tables import DEFAULT_CLUSTER, GatewayRow, HoldingRow, ReplicaRow

HEARTBEAT_S = 2.0
"""How often a process reports, in seconds."""

_EXPIRES_S = 6.0
_REASON_CHARS = 500

Row = TypeVar("Row", GatewayRow, ReplicaRow)


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
    """The registry's tables of a cluster's live processes. Methods block.

    All raise RegistryUnavailable while the database does not answer.

    Args:
        database: the registry.
        now_s: seconds since the epoch; default: the database's own clock, since a machine may be wrong.
        cluster: the deployment that reports, and sees its own processes alone.
    """

    def __init__(
        self,
        database: Database,
        now_s: Callable[[], float] | None = None,
        *,
        cluster: str = DEFAULT_CLUSTER,
    ) -> None:
        self._database = database
        self._now_s = now_s
        self._cluster = cluster

    def report_gateway(self, gateway: GatewayHeartbeat) -> None:
        """Store a gateway's report."""
        with self._database.writing() as session:
            row = session.get(GatewayRow, gateway.id) or GatewayRow(id=gateway.id)
            row.cluster, row.adopted, row.oldest = self._cluster, gateway.adopted, gateway.oldest
            row.seen_s = self._now()
            session.add(row)
            self._tell(session)

    def report_replica(self, replica: ReplicaHeartbeat) -> None:
        """Store a replica's report; of its revisions, what differs from the report before."""
        holds = {revision: reason and reason[:_REASON_CHARS] for revision, reason in replica.holds.items()}
        with self._database.writing() as session:
            row = session.get(ReplicaRow, replica.id) or ReplicaRow(id=replica.id)
            row.cluster, row.adopted, row.seen_s = self._cluster, replica.adopted, self._now()
            session.add(row)
            session.flush()
            kept = select(HoldingRow).where(HoldingRow.replica_id == replica.id)
            for holding in session.scalars(kept).all():
                if holding.revision in holds:
                    holding.reason = holds.pop(holding.revision)
                else:
                    session.delete(holding)
            for revision, reason in holds.items():
                session.add(HoldingRow(replica_id=replica.id, revision=revision, reason=reason))
            self._tell(session)

    def renew(self, last: GatewayHeartbeat | ReplicaHeartbeat) -> None:
        """Say that the last report holds still; it is stored again if it was dropped meanwhile."""
        table = GatewayRow if isinstance(last, GatewayHeartbeat) else ReplicaRow
        renewed = update(table).where(table.id == last.id).values(seen_s=self._now())
        with self._database.writing() as session:
            there = session.execute(renewed.returning(table.id)).first() is not None
        if there:
            return
        if isinstance(last, GatewayHeartbeat):
            self.report_gateway(last)
        else:
            self.report_replica(last)

    def alive(self) -> Alive:
        """The processes that reported in the last six seconds."""
        with self._database.reading() as session:
            gateways = session.scalars(self._recent(GatewayRow)).all()
            replicas = session.scalars(self._recent(ReplicaRow)).all()
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
            self._tell(session)

    def drop_expired(self) -> None:
        """Remove the processes, of all clusters, whose last report is over a minute old."""
        since_s = self._now() - 10 * _EXPIRES_S
        with self._database.writing() as session:
            session.execute(delete(GatewayRow).where(GatewayRow.seen_s < since_s))
            session.execute(delete(ReplicaRow).where(ReplicaRow.seen_s < since_s))

    def _recent(self, table: type[Row]) -> Select[Row]:
        since_s = self._now() - _EXPIRES_S
        return select(table).where(table.cluster == self._cluster, table.seen_s >= since_s)

    def _now(self) -> Any:
        return self._now_s() if self._now_s is not None else self._database.now()

    def _tell(self, session: Session) -> None:
        self._database.tell(session, f"{self._cluster}/reports")
