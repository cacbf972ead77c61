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


class RequestAdmission:
    """Bounds the requests in flight in this gateway replica, per tenant and in total; others get 429 at once.

    Retry-After is the requests in flight times the smoothed time between completions, between a second and a
    minute.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self.in_flight = 0
        self._of_tenants: Counter[str] = Counter()
        self._gap_s = 0.0
        self._last_done_s: float | None = None

    @contextmanager
    def permit(self, tenant: Tenant) -> Iterator[None]:
        """Count a tenant's request as in flight until the block ends.

        Raises:
            RateLimited: the tenant's limit of requests in flight is reached.
            Overloaded: the server's limit is reached.
        """
        most = tenant.limits.requests_in_flight
        if most is not None and self._of_tenants[tenant.id] >= most:
            raise RateLimited(
                f"the tenant has {most} requests in flight, as many as it may",
                retry_after_s=self.retry_after_s(),
            )
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(
                f"{self.in_flight} requests are in flight, the server takes {self._max_in_flight}",
                retry_after_s=self.retry_after_s(),
            )
        if self.in_flight == 0:
            self._last_done_s = None  # idle time must not count into the rate
        self.in_flight += 1
        self._of_tenants[tenant.id] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._of_tenants[tenant.id] -= 1
            if not self._of_tenants[tenant.id]:
                del self._of_tenants[tenant.id]
            now = time.monotonic()
            if self._last_done_s is not None:
                gap = now - self._last_done_s
                self._gap_s += _SMOOTHING * (gap - self._gap_s) if self._gap_s else gap
            self._last_done_s = now

    def retry_after_s(self) -> int:
        """Estimated seconds until the requests in flight are done."""
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self.in_flight * self._gap_s)))
