"""Fixtures of the adapters' tests."""

from tests.support.adapters import (
    adapters,
    add,
    clock,
    database,
    s3,
    s3_server,
    store,
    unreachable_s3,
)

__all__ = ["adapters", "add", "clock", "database", "s3", "s3_server", "store", "unreachable_s3"]
