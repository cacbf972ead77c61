"""API keys: what is kept cannot be turned back into a key."""

from __future__ import annotations

import pytest

from dear_serving.tenancy.keys import new_key, proves, split_key


def test_a_key_is_proved_by_its_own_secret_alone() -> None:
    one, other = new_key(), new_key()
    key_id, secret = split_key(one.text) or ("", "")
    assert key_id == one.id
    assert proves(secret, one.salt, one.digest)
    assert not proves(secret, other.salt, one.digest)
    assert not proves(secret, one.salt, other.digest)
    assert not proves(secret[:-1] + ("a" if secret[-1] != "a" else "b"), one.salt, one.digest)


def test_nothing_kept_holds_the_secret() -> None:
    made = new_key()
    _, secret = split_key(made.text) or ("", "")
    assert secret.encode() not in made.salt + made.digest + made.id.encode()
    assert len({new_key().text for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    ["", "dear_", "dear_0123456789ab_short", "DEAR_" + new_key().text[5:], new_key().text + "\n", "é" * 61],
    ids=["empty", "prefix", "short", "capitals", "line break", "other letters"],
)
def test_what_is_no_key_has_no_parts(text: str) -> None:
    assert split_key(text) is None
