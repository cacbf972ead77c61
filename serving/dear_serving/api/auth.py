"""API keys: only their digests leave the process that reads the environment."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from dear_serving.errors import InvalidKey


def hash_keys(keys: Sequence[str]) -> tuple[bytes, ...]:
    """SHA-256 digests of the accepted keys."""
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def check_key(authorization: str | None, accepted: Sequence[bytes]) -> None:
    """Let a caller with one of the accepted keys pass, or anyone when none is configured.

    Args:
        authorization: the Authorization header, ``Bearer KEY``.
        accepted: digests of the keys; each is compared, in constant time.

    Raises:
        InvalidKey: no key, or another one.
    """
    if not accepted:
        return
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise InvalidKey("an API key is needed: Authorization: Bearer KEY")
    digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
    if not any([hmac.compare_digest(digest, one) for one in accepted]):  # noqa: C419 - compare all
        raise InvalidKey("the API key is not known")
