"""Identifies the tenant of a request by its API key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cachetools import TTLCache

from dear_serving.errors import InvalidKey, RegistryUnavailable
from dear_serving.tenancy.keys import proves, split_key
from dear_serving.tenancy.tenants import KnownKey, Tenant, Tenants

logger = logging.getLogger(__name__)

_MAX_CACHED_KEYS = 10_000
_PATIENCE_S = 0.25
"""How long a request with a known key waits for the registry."""
_GIVE_UP_S = 5.0
_RETRY_S = 1.0
# Of its own: a registry that hangs takes threads that nothing else may need.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the registry said of a key at a time of the monotonic clock."""

    known: KnownKey
    asked_s: float


class Authenticator:
    """Identifies tenants in one gateway, with a cache in front of the registry.

    Args:
        tenants: the tenants and keys in the registry.
        digests: SHA-256 of the default tenant's keys from the environment.
        open_access: whether callers without a key of this server act as the default tenant.
        fresh_s: how long a key is good without a new look at the registry, in seconds.
        stale_s: how long a known key stays good while the registry does not answer, in seconds.

    A revoked key is out after ``fresh_s`` while the registry answers within a quarter of a second, else as
    soon as it answers. An expired key is out in time, whatever the registry does.
    """

    def __init__(
        self,
        tenants: Tenants,
        digests: Sequence[bytes] = (),
        *,
        open_access: bool = False,
        fresh_s: float = 1.0,
        stale_s: float = 300.0,
    ) -> None:
        self._tenants = tenants
        self._digests = tuple(digests)
        self.open_access = open_access and not digests
        self._fresh_s = fresh_s
        self._known: TTLCache[str, _Kept] = TTLCache(_MAX_CACHED_KEYS, max(fresh_s, stale_s))
        self._lookups: dict[str, asyncio.Task[KnownKey | None]] = {}
        self._away_until_s = 0.0
        self._threads = ThreadPoolExecutor(_THREADS, "dear-keys")

    async def identify(self, authorization: str | None) -> Tenant:
        """The tenant that sent a request.

        Args:
            authorization: the Authorization header, ``Bearer KEY``.

        Raises:
            InvalidKey: the key is missing (on a server that is not open), unknown, expired or revoked.
            RegistryUnavailable: the key cannot be looked up now.
        """
        text = bearer(authorization)
        parts = split_key(text) if text else None
        if self.open_access and parts is None:  # some clients must send a key and make one up
            return Tenant()
        if text is None:
            raise InvalidKey("an API key is needed: Authorization: Bearer KEY")
        if matches_any(text, self._digests):
            return Tenant()
        known = await self._find(parts[0]) if parts else None
        if parts is None or known is None or not proves(parts[1], known.salt, known.digest):
            raise InvalidKey("the API key is not known")
        if not known.key.is_valid(time.time()):
            raise InvalidKey("the API key is expired or revoked")
        return known.tenant

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, key_id: str) -> KnownKey | None:
        kept, now_s = self._known.get(key_id), time.monotonic()
        if kept is not None and (now_s - kept.asked_s < self._fresh_s or now_s < self._away_until_s):
            return kept.known
        lookup = self._lookups.get(key_id)
        if lookup is None:  # one at a time for a key; it goes on when its requests no longer wait
            lookup = self._lookups[key_id] = asyncio.create_task(self._look_up(key_id))
            lookup.add_done_callback(lambda done: self._forget_lookup(key_id, done))
        if kept is None:
            return await asyncio.shield(lookup)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await asyncio.shield(lookup)
        except (RegistryUnavailable, TimeoutError):
            if not self._away_until_s:
                logger.warning("the registry does not answer; known keys stay good for a while")
            # Who comes in the next second does not wait at all.
            self._away_until_s = time.monotonic() + _RETRY_S
            return kept.known

    async def _look_up(self, key_id: str) -> KnownKey | None:
        asked_s, loop = time.monotonic(), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_GIVE_UP_S):  # those that wait for a thread, too
                known = await loop.run_in_executor(self._threads, self._tenants.find_key, key_id)
        except TimeoutError:
            raise RegistryUnavailable(
                "the registry does not answer now", retry_after_s=2 * _RETRY_S
            ) from None
        self._away_until_s = 0.0
        if known is None:  # do not cache unknown keys: guesses must not fill the memory
            self._known.pop(key_id, None)
        else:
            self._known[key_id] = _Kept(known, asked_s)
        return known

    def _forget_lookup(self, key_id: str, lookup: asyncio.Task[KnownKey | None]) -> None:
        del self._lookups[key_id]
        if not lookup.cancelled():
            lookup.exception()  # seen, also where nobody waits any more


def bearer(authorization: str | None) -> str | None:
    """The key in an Authorization header, or None."""
    scheme, _, key = (authorization or "").partition(" ")
    key = key.strip()
    return key if scheme.lower() == "bearer" and key else None


def hash_keys(keys: Sequence[str]) -> tuple[bytes, ...]:
    """SHA-256 digests of keys. Only digests leave the process that reads the keys from the environment."""
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def matches_any(key: str, digests: Sequence[bytes]) -> bool:
    """Whether the key has one of the digests; compares with all of them, each in constant time."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    return any([hmac.compare_digest(digest, known) for known in digests])  # noqa: C419 - compare all
