"""API keys: ``dear_ID_SECRET``. The id finds the key's row; the secret is not stored, only its hash.

A secret has 256 random bits, which cannot be guessed, so one salted SHA-256 is enough. Slow hashes are for
secrets that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

_KEY = re.compile(r"dear_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: ``text`` goes to its owner and is not stored; the other fields are."""

    id: str
    text: str
    salt: bytes
    digest: bytes


def new_key() -> NewKey:
    """Create a random key."""
    key_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_bytes(_SALT_BYTES)
    return NewKey(key_id, f"dear_{key_id}_{secret}", salt, _digest(secret, salt))


def split_key(text: str) -> tuple[str, str] | None:
    """The id and the secret; None if the text does not have the form of a key."""
    match = _KEY.fullmatch(text)
    return (match["id"], match["secret"]) if match else None


def proves(secret: str, salt: bytes, digest: bytes) -> bool:
    """Whether this is the key's secret; compares in constant time."""
    return hmac.compare_digest(_digest(secret, salt), digest)


def _digest(secret: str, salt: bytes) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()
