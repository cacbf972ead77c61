"""Requests and tokens a minute, by tenant, counted by the limits library in the gateway's memory."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from dear_serving.errors import PayloadTooLarge, RateLimited
from dear_serving.tenancy.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a budget: ``remaining`` of ``limit``; whole again in ``reset_s`` seconds."""

    kind: str
    limit: int
    remaining: int
    reset_s: float

    def headers(self) -> dict[str, str]:
        """As OpenAI's: ``x-ratelimit-limit-requests`` and the like."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{max(0.0, self.reset_s):.3f}s",
        }


class Budgets:
    """Spends tenants' budgets a minute, over a sliding window; each gateway replica counts for itself."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def spend_request(self, tenant: Tenant) -> Allowance | None:
        """One request; what is left, None where nothing binds.

        Raises:
            RateLimited: the budget is spent.
        """
        return await self._spend(tenant.id, "requests", tenant.limits.requests_per_minute, 1)

    async def spend_tokens(self, tenant: Tenant, tokens: int) -> Allowance | None:
        """The predicted tokens of a request; what is left, None where nothing binds.

        Raises:
            RateLimited: the budget is spent.
            PayloadTooLarge: the whole budget is smaller than this one request.
        """
        return await self._spend(tenant.id, "tokens", tenant.limits.tokens_per_minute, tokens)

    async def _spend(self, tenant: str, kind: str, limit: int | None, cost: int) -> Allowance | None:
        if limit is None:
            return None
        item = RateLimitItemPerMinute(limit, namespace="dear")
        fits = await self._limiter.hit(item, kind, tenant, cost=cost)
        stats = await self._limiter.get_window_stats(item, kind, tenant)
        left = Allowance(kind, limit, max(0, stats.remaining), stats.reset_time - time.time())
        if fits:
            return left
        if cost > limit:  # no wait would help
            raise PayloadTooLarge(f"this request is worth {cost} {kind}, the tenant has {limit} a minute")
        raise RateLimited(
            f"the tenant's {limit} {kind} a minute are spent",
            retry_after_s=max(1.0, math.ceil(left.reset_s)),
            headers=left.headers(),
        )
