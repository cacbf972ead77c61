"""Refuses requests over the limit before they queue, with a time to retry after."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from dear_serving.errors import Overloaded, RateLimited
from dear_serving.tenancy.tenants import Tenant

_SMOOTHING = 0.1
_LONGEST_RETRY_S = 60
# A body takes a place for each of these, since what it becomes takes memory until it is answered.
_BYTES_PER_PLACE = 256 * 1024
# A tenant leaves this share to others: more while others have some.
_LEFT_BESIDE_OTHERS, _LEFT_ALONE = 1 / 4, 1 / 16


class RequestAdmission:
    """Bounds the requests in flight in this gateway replica, which take its memory; others get 429 at once.

    No tenant may hold all places, so that others always find some; a large request takes several. Retry-After
    is the requests in flight times the smoothed time between completions, between a second and a minute.

    Args:
        max_in_flight: how many places there are.
        what: what is counted, for the messages.
    """

    def __init__(self, max_in_flight: int, what: str = "requests in flight") -> None:
        self._max_in_flight = max_in_flight
        self._what = what
        self.in_flight = 0
        self._of_tenants: Counter[str] = Counter()
        self._places: Counter[str] = Counter()
        self._gap_s = 0.0
        self._last_done_s: float | None = None

    def check(self, tenant: Tenant) -> None:
        """Refuse a request that ``permit`` would refuse now.

        Raises:
            RateLimited, Overloaded: see ``permit``.
        """
        self._check_places(tenant, 1)

    @contextmanager
    def permit(self, tenant: Tenant, size: int = 0) -> Iterator[Permit]:
        """Count a tenant's request of ``size`` bytes as in flight until the block ends.

        Raises:
            RateLimited: the tenant's share of the places is reached.
            Overloaded: the server's limit is reached.
        """
        self.check(tenant)
        permit = Permit(self, tenant)
        permit.grow(size)
        if self.in_flight == 0:
            self._last_done_s = None  # idle time must not count into the rate
        self.in_flight += 1
        self._of_tenants[tenant.id] += 1
        try:
            yield permit
        finally:
            self.in_flight -= 1
            _take_off(self._of_tenants, tenant.id, 1)
            _take_off(self._places, tenant.id, permit.places)
            now = time.monotonic()
            if self._last_done_s is not None:
                gap = now - self._last_done_s
                self._gap_s += _SMOOTHING * (gap - self._gap_s) if self._gap_s else gap
            self._last_done_s = now

    def retry_after_s(self) -> int:
        """Estimated seconds until the requests in flight are done."""
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self.in_flight * self._gap_s)))

    def places_for(self, size: int) -> int:
        """How many places a request of ``size`` bytes takes; at most what one tenant may have alone."""
        return min(1 + size // _BYTES_PER_PLACE, share_of_a_tenant(self._max_in_flight, beside_others=True))

    def take(self, tenant: Tenant, places: int) -> None:
        """Take more places for a request; see ``permit`` for the errors."""
        self._check_places(tenant, places)
        self._places[tenant.id] += places

    def _check_places(self, tenant: Tenant, places: int) -> None:
        taken = self._places.total()
        if taken + places > self._max_in_flight:
            raise Overloaded(
                f"{self.in_flight} {self._what.replace(' ', ' are ', 1)}, "
                f"the server takes {self._max_in_flight}",
                retry_after_s=self.retry_after_s(),
            )
        own = self._places[tenant.id]
        if own + places > share_of_a_tenant(self._max_in_flight, beside_others=taken > own):
            raise RateLimited(
                f"the tenant has {self._of_tenants[tenant.id]} {self._what}, and leaves the rest to others",
                retry_after_s=self.retry_after_s(),
            )


class Permit:
    """The places of one request."""

    __slots__ = ("_admission", "_tenant", "places")

    def __init__(self, admission: RequestAdmission, tenant: Tenant) -> None:
        self._admission = admission
        self._tenant = tenant
        self.places = 0

    def grow(self, size: int) -> None:
        """Hold as many places as a request of ``size`` bytes takes.

        Raises:
            RateLimited, Overloaded: see RequestAdmission.permit.
        """
        more = self._admission.places_for(size) - self.places
        if more > 0:
            self._admission.take(self._tenant, more)
            self.places += more


def share_of_a_tenant(limit: int, *, beside_others: bool) -> int:
    """How much of a limit that all share one tenant may have, beside others or alone."""
    return limit - int(limit * (_LEFT_BESIDE_OTHERS if beside_others else _LEFT_ALONE))


def _take_off(counter: Counter[str], tenant: str, count: int) -> None:
    counter[tenant] -= count
    if not counter[tenant]:
        del counter[tenant]
