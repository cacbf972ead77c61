"""The other gateways: how much of the engines and of the limits is left to this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dear_serving.adapters.polling import attempt
from dear_serving.errors import RateLimited, RequestError
from dear_serving.gateway.fair_queue import FairQueue, Share, Work
from dear_serving.tenancy.tenants import Tenant

if TYPE_CHECKING:
    from dear_serving.gateway.shared_counts import SharedCounts

logger = logging.getLogger(__name__)

T = TypeVar("T")

_EXCHANGE_S = 0.25
_COUNT_S = 5.0
_RETRY_AFTER_S = 1.0
# What a gateway may always use, of its equal part of the engines: a newcomer need not wait for an exchange.
_FLOOR = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """A gateway's work by tenant, and the cost a second that it got done lately."""

    work: Mapping[str, Work] = field(default_factory=dict)
    rate: float = 0.0

    def to_json(self) -> bytes:
        """For other gateways."""
        return json.dumps({"rate": self.rate, "work": self.work}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Report:
        """A report of another gateway, which may be of another version.

        Raises:
            ValueError: it makes no sense.
        """
        try:
            found = json.loads(text)
            work = {tenant: Work(float(one[0]), int(one[1])) for tenant, one in found["work"].items()}
            return cls(work, float(found["rate"]))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"no report: {error!r}") from None


def share_of(own: Report, others: Sequence[Report], alone: float, shared: float) -> Share:
    """This gateway's part of the engines.

    The engines' tokens are shared by weight among the tenants that have work in any gateway. What one does
    not need goes to the rest (max-min fairness). Its tokens go to the gateways as its work does. Tokens that
    nobody needs are left to all gateways equally, since their next request may come to any.

    Args:
        own: what this gateway has.
        others: what the other gateways have.
        alone: most tokens in the engines while one tenant is active anywhere.
        shared: most tokens while several are.
    """
    reports = (own, *others)
    weights: dict[str, float] = {}
    costs: Counter[str] = Counter()
    for report in reports:
        for tenant, work in report.work.items():
            weights[tenant] = max(work.weight, weights.get(tenant, 0.0))
            costs[tenant] += work.cost
    room = shared if len(weights) > 1 else alone
    given = _max_min(room, weights, costs)
    parts = {tenant: work.cost / costs[tenant] for tenant, work in own.work.items() if costs[tenant]}
    spare = max(0.0, room - sum(given.values()))
    own_room = spare / len(reports) + sum(given[tenant] * part for tenant, part in parts.items())
    return Share(
        room=max(own_room, _FLOOR * shared / len(reports), 1.0),
        parts={tenant: max(part, _FLOOR / len(reports)) for tenant, part in parts.items()},
        new_part=1 / len(reports),
    )


def _max_min(room: float, weights: Mapping[str, float], needed: Mapping[str, int]) -> dict[str, float]:
    """How much of ``room`` each gets: what it needs, or as much by its weight as all who need more."""
    given: dict[str, float] = {}
    left = sorted(weights, key=lambda one: needed[one] / weights[one])
    total = sum(weights.values())
    for one in left:
        given[one] = min(float(needed[one]), room * weights[one] / total)
        room -= given[one]
        total -= weights[one]
    return given


class Peers:
    """Makes limits and fair shares hold over all gateways.

    With a Redis, gateways tell each other four times a second what they have by tenant, and count requests in
    flight together. Without one, or while it is away, each of the living gateways takes an equal part.

    Args:
        queue: this gateway's fair queue; it gets its part of the engines.
        counts: the Redis.
        count_gateways: how many gateways live, by the registry.
        count_engines: how many engines run; None: not known.
    """

    def __init__(
        self,
        queue: FairQueue,
        counts: SharedCounts | None,
        count_gateways: Callable[[], Awaitable[int]],
        count_engines: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._count_gateways = count_gateways
        self._count_engines = count_engines
        self._in_flight: Counter[str] = Counter()
        self._others: tuple[Report, ...] = ()
        self._calls: set[asyncio.Task[Any]] = set()
        self._counted_s = -math.inf
        self.engines: int | None = None
        """How many engines run; None: not known."""
        self.living = 1
        self.is_shared = False
        """Whether the others' work is known; if not, this gateway takes one of ``living`` equal parts."""

    def others_cost(self, tenant: str | None = None) -> int:
        """Cost of what waits or is in the engines by the other gateways; of one tenant, or of all."""
        if tenant is None:
            return sum(work.cost for other in self._others for work in other.work.values())
        return sum(other.work[tenant].cost for other in self._others if tenant in other.work)

    def part_of(self, limit: int) -> int:
        """What this gateway has of a limit that all share."""
        return limit if self.is_shared else math.ceil(limit / self.living)

    def seconds_for(self, cost: int) -> float:
        """Seconds that the engines need for work of ``cost`` of all gateways; 0 without a measured rate."""
        rate = self._queue.rate + sum(other.rate for other in self._others)
        return cost / rate if rate else 0.0

    def check(self, tenant: Tenant) -> None:
        """Refuse a request that ``place`` would refuse now, as far as this gateway knows.

        Raises:
            RateLimited: see ``place``.
        """
        most = tenant.limits.requests_in_flight
        if most is not None and self._in_flight[tenant.id] >= self.part_of(most):
            raise _too_many(most)

    @asynccontextmanager
    async def place(self, tenant: Tenant) -> AsyncIterator[None]:
        """Count a tenant's request as in flight, over all gateways, until the block ends.

        Raises:
            RateLimited: the tenant has as many requests in flight as it may.
        """
        most = tenant.limits.requests_in_flight
        if most is None:
            yield
            return
        self.check(tenant)
        self._in_flight[tenant.id] += 1
        counted: bool | None = None
        try:
            if self._counts is not None:
                taking = self._counts.take(tenant.id, self._in_flight[tenant.id], most)
                counted = await asyncio.shield(self._begin(taking))
                if counted is False:
                    raise _too_many(most)
            yield
        finally:
            left = self._in_flight[tenant.id] = self._in_flight[tenant.id] - 1
            if not left:
                del self._in_flight[tenant.id]
            # Also where nobody knows whether it was counted: the client left, or Redis answered too late.
            if counted is not False and self._counts is not None:
                # Not awaited: the reply's last byte need not wait.
                self._begin(self._counts.give_back(tenant.id, left))

    def _begin(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A call of Redis that is not broken off when the client leaves, which would cost the connection."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def run(self) -> None:
        """Exchange reports, or count the gateways, until cancelled; errors are logged."""
        while True:
            await attempt(self.refresh)
            await asyncio.sleep(_EXCHANGE_S)

    async def refresh(self) -> None:
        """Tell the others what this gateway has, and take the part that is left to it."""
        self.engines = self._count_engines()
        if self.engines is not None:
            self._queue.engines = max(1, self.engines)
        own = Report(self._queue.work(), self._queue.rate)
        found = await self._counts.exchange(own.to_json()) if self._counts is not None else None
        if found is None:
            await self._count_living()
            self._others, self.is_shared = (), False
            self._queue.share = Share.equal(self.living)
            return
        others = []
        for text in found:
            try:
                others.append(Report.from_json(text))
            except ValueError as error:
                logger.warning("a gateway's report cannot be read: %s", error)
                others.append(Report())
        self._others, self.living, self.is_shared = tuple(others), 1 + len(others), True
        self._queue.share = share_of(own, others, self._queue.alone, self._queue.shared)

    async def _count_living(self) -> None:
        if time.monotonic() - self._counted_s >= _COUNT_S:
            self._counted_s = time.monotonic()
            with contextlib.suppress(RequestError):  # the last number stays
                self.living = max(1, await self._count_gateways())

    async def close(self) -> None:
        """Leave the others, and close the connections."""
        await asyncio.gather(*self._calls)
        if self._counts is not None:
            await self._counts.close()


def _too_many(most: int) -> RateLimited:
    return RateLimited(
        f"the tenant has {most} requests in flight, as many as it may", retry_after_s=_RETRY_AFTER_S
    )
