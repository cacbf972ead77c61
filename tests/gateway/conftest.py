"""Fixtures of the gateway's tests."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.adapters import adapters, add, clock, database, store
from tests.support.redis import redis_server
from tests.support.tokenizers import demo, either, llama3, llama3_backend, without_chat_template

__all__ = [
    "adapters",
    "add",
    "clock",
    "database",
    "demo",
    "either",
    "llama3",
    "llama3_backend",
    "store",
    "without_chat_template",
]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis of this module's own: its URL and its process."""
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found
