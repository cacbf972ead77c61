"""What all gateways of a cluster count together, in one Redis."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TIMEOUT_S = 0.5
_PAUSE_S = 5.0
_CONNECTIONS = 16
LIVING_S = 3.0
"""A gateway that has not reported for as long counts as gone, with the requests it had."""

# Stores this gateway's report and returns the others', without those of gateways that are gone.
_EXCHANGE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.3f %s', now, ARGV[2]))
redis.call('EXPIRE', KEYS[1], 3600)
local all, others = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local seen, report = string.match(all[i + 1], '^(%S+) (.*)$')
  if now - tonumber(seen) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] ~= ARGV[1] then
    others[#others + 1] = report
  end
end
return others
"""

# A gateway's count is stored as "NUMBER COUNT". It is the whole count, under a number that grows: so what got
# lost, or came too late, is made good by the next one. This one is stored unless all living gateways together
# would have more than they may.
_TAKE = """
local all, sum, last = redis.call('HGETALL', KEYS[1]), tonumber(ARGV[3]), 0
for i = 1, #all, 2 do
  local number, count = string.match(all[i + 1], '^(%d+) (%d+)$')
  if all[i] == ARGV[1] then
    last = tonumber(number)
  elseif redis.call('HEXISTS', KEYS[2], all[i]) == 1 then
    sum = sum + tonumber(count)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
if sum > tonumber(ARGV[4]) then return 0 end
if tonumber(ARGV[2]) > last then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
  redis.call('EXPIRE', KEYS[1], 86400)
end
return 1
"""

_GIVE_BACK = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or tonumber(ARGV[2]) > tonumber(string.match(stored, '^%d+')) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
  redis.call('EXPIRE', KEYS[1], 86400)
end
"""


class SharedCounts:
    """One gateway's access to the counts. After an error it is not tried again for five seconds.

    Args:
        url: of the Redis, ``redis://host:6379/0``.
        cluster: gateways of the same cluster count together.
        gateway: this gateway's id.
    """

    def __init__(self, url: str, cluster: str, gateway: str) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            max_connections=_CONNECTIONS,
        )
        self._gateway = gateway
        self._gateways = f"dear:{cluster}:gateways"
        self._in_flight = f"dear:{cluster}:in_flight:"
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._take = self._redis.register_script(_TAKE)
        self._give_back = self._redis.register_script(_GIVE_BACK)
        self._retry_s = 0.0
        self._numbers = itertools.count(1)

    async def exchange(self, report: bytes) -> list[bytes] | None:
        """Store this gateway's report; returns the other living gateways', None while Redis is away."""
        arguments: list[str | bytes | float] = [self._gateway, report, LIVING_S]
        return await self._ask(lambda: self._exchange(keys=[self._gateways], args=arguments))

    async def take(self, tenant: str, count: int, most: int) -> bool | None:
        """Say that a tenant has ``count`` requests here, one more than before, if it may; None without Redis.

        Args:
            most: how many it may have in all gateways.
        """
        keys = [self._in_flight + tenant, self._gateways]
        arguments: list[str | int] = [self._gateway, next(self._numbers), count, most]
        return await self._ask(lambda: self._take(keys=keys, args=arguments), bool)

    async def give_back(self, tenant: str, count: int) -> None:
        """Say that a tenant has ``count`` requests here now."""
        keys = [self._in_flight + tenant]
        arguments: list[str | int] = [self._gateway, next(self._numbers), count]
        await self._ask(lambda: self._give_back(keys=keys, args=arguments))

    async def close(self) -> None:
        """Leave the living, and close the connections."""
        await self._ask(lambda: self._redis.hdel(self._gateways, self._gateway))
        await self._redis.aclose()

    async def _ask(
        self, call: Callable[[], Awaitable[Any]], convert: Callable[[Any], T] = lambda found: found
    ) -> T | None:
        if time.monotonic() < self._retry_s:
            return None
        try:
            return convert(await call())
        except (RedisError, OSError) as error:
            # Less strict limits are better than no service.
            logger.warning("tenancy.limits_url: Redis does not answer, this gateway counts alone: %s", error)
            self._retry_s = time.monotonic() + _PAUSE_S
            return None
