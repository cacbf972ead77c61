"""Budgets of requests and tokens per minute for each tenant, counted in memory or in Redis."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError

from dear_serving.errors import PayloadTooLarge, RateLimited, SettingsError
from dear_serving.tenancy.tenants import Tenant

logger = logging.getLogger(__name__)

_REDIS_TIMEOUT_S = 0.5
_REDIS_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The state of a budget: ``remaining`` of ``limit`` are left; it is full again in ``reset_s`` seconds."""

    kind: str
    limit: int
    remaining: int
    reset_s: float

    def headers(self) -> dict[str, str]:
        """Reply headers as OpenAI's, such as ``x-ratelimit-limit-requests``."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{max(0.0, self.reset_s):.3f}s",
        }


class Budgets:
    """Tenants' budgets per minute, over a sliding window.

    Args:
        url: the Redis in which all gateway replicas count together, ``redis://host:6379/0``. With None, or
            while Redis does not answer, each replica counts alone.
        part_of: how much of a limit is this replica's, where it counts alone.

    Raises:
        SettingsError: the URL is not valid, or its driver is not installed.
    """

    def __init__(self, url: str | None = None, part_of: Callable[[int], int] = lambda limit: limit) -> None:
        self._part_of = part_of
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._redis: RedisStorage | None = None
        self._redis_retry_s = 0.0
        if url is not None:
            try:
                self._redis = RedisStorage(
                    f"async+{url}",
                    implementation="redispy",
                    wrap_exceptions=True,
                    socket_timeout=_REDIS_TIMEOUT_S,
                    socket_connect_timeout=_REDIS_TIMEOUT_S,
                )
            except (ConfigurationError, ValueError) as error:
                raise SettingsError(f"tenancy.limits_url: {error}") from None
            self._shared = SlidingWindowCounterRateLimiter(self._redis)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            client: Any = self._redis.bridge
            await client.storage.aclose()

    async def spend_request(self, tenant: Tenant) -> Allowance | None:
        """Spend one request; returns the budget's state, None without a limit.

        Raises:
            RateLimited: the budget is spent.
        """
        return await self._spend(tenant.id, "requests", tenant.limits.requests_per_minute, 1)

    async def spend_tokens(self, tenant: Tenant, tokens: int) -> Allowance | None:
        """Spend a request's predicted tokens; returns the budget's state, None without a limit.

        Raises:
            RateLimited: the budget is spent.
            PayloadTooLarge: the request needs more than the whole budget.
        """
        return await self._spend(tenant.id, "tokens", tenant.limits.tokens_per_minute, tokens)

    async def check_tokens(self, tenant: Tenant, least_tokens: int) -> None:
        """Refuse what spend_tokens would refuse for ``least_tokens`` or more; spends nothing.

        Raises:
            RateLimited: the budget is spent.
            PayloadTooLarge: the request needs more than the whole budget.
        """
        limit = tenant.limits.tokens_per_minute
        if limit is None:
            return
        fits, left = await self._hit(limit, "tokens", tenant.id, least_tokens, spend=False)
        if not fits:
            raise self._refusal(left, f"at least {least_tokens}", least_tokens)

    async def _spend(self, tenant: str, kind: str, limit: int | None, cost: int) -> Allowance | None:
        if limit is None:
            return None
        fits, left = await self._hit(limit, kind, tenant, cost)
        if fits:
            return left
        raise self._refusal(left, str(cost), cost)

    @staticmethod
    def _refusal(left: Allowance, worth: str, cost: int) -> PayloadTooLarge | RateLimited:
        if cost > left.limit:  # waiting would not help
            return PayloadTooLarge(
                f"this request is worth {worth} {left.kind}, the tenant has {left.limit} a minute"
            )
        return RateLimited(
            f"the tenant's {left.limit} {left.kind} a minute are spent",
            retry_after_s=max(1.0, math.ceil(left.reset_s)),
            headers=left.headers(),
        )

    async def _hit(
        self, limit: int, kind: str, tenant: str, cost: int, *, spend: bool = True
    ) -> tuple[bool, Allowance]:
        """Whether ``cost`` fits the budget, and the budget's state; with ``spend`` it is taken off."""
        if self._shared is not None and time.monotonic() >= self._redis_retry_s:
            try:
                return await _hit(self._shared, limit, kind, tenant, cost, spend=spend)
            except StorageError as error:
                # Less strict limits are better than no service.
                logger.warning("Redis is unavailable, this gateway counts limits alone: %s", error)
                self._redis_retry_s = time.monotonic() + _REDIS_PAUSE_S
        return await _hit(self._local, self._part_of(limit), kind, tenant, cost, spend=spend)


async def _hit(
    limiter: SlidingWindowCounterRateLimiter, limit: int, kind: str, tenant: str, cost: int, *, spend: bool
) -> tuple[bool, Allowance]:
    item = RateLimitItemPerMinute(limit, namespace="dear")
    fits = await (limiter.hit if spend else limiter.test)(item, kind, tenant, cost=min(cost, limit + 1))
    stats = await limiter.get_window_stats(item, kind, tenant)
    return fits, Allowance(kind, limit, max(0, stats.remaining), stats.reset_time - time.time())
