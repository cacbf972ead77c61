"""Fixtures of the gateway's tests."""

from tests.support.adapters import adapters, add, clock, database, store
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
