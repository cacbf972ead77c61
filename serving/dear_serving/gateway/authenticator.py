"""Identifies the tenant of a request by its API key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence

from cachetools import TTLCache

from dear_serving.errors import InvalidKey
from dear_serving.tenancy.keys import proves, split_key
from dear_serving.tenancy.tenants import KnownKey, Tenant, Tenants

_MAX_CACHED_KEYS = 10_000


class Authenticator:
    """Identifies tenants in one gateway, with a cache in front of the registry.

    Args:
        tenants: the tenants and keys in the registry.
        digests: SHA-256 of the default tenant's keys from the environment.
        open_access: whether callers without a key of this server act as the default tenant.
        fresh_s: how long a key is cached, in seconds; a revoked key may still work for as long.
    """

    def __init__(
        self,
        tenants: Tenants,
        digests: Sequence[bytes] = (),
        *,
        open_access: bool = False,
        fresh_s: float = 1.0,
    ) -> None:
        self._tenants = tenants
        self._digests = tuple(digests)
        self.open_access = open_access and not digests
        self._known: TTLCache[str, KnownKey] = TTLCache(_MAX_CACHED_KEYS, fresh_s)

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

    async def _find(self, key_id: str) -> KnownKey | None:
        known = self._known.get(key_id)
        if known is None:
            known = await asyncio.to_thread(self._tenants.find_key, key_id)
            if known is not None:  # do not cache unknown keys: guesses must not fill the memory
                self._known[key_id] = known
        return known


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
