"""Fixtures of the replica's tests."""

from tests.support.adapters import adapters, add, clock, database, store

__all__ = ["adapters", "add", "clock", "database", "store"]
