"""Tells the loops of a process that the registry changed, so that they need not ask all the time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Collection

from dear_serving.registry.database import Database

logger = logging.getLogger(__name__)

_POLL_S = 0.1
"""How often loops ask a database that tells nobody: SQLite."""
_TOLD_S = 10.0
"""How often they ask nevertheless while PostgreSQL tells them."""
_LOST_S = 1.0
"""How often they ask while nobody listens, because the connection is lost."""
_GATHER_S = 0.02
"""What is told within that time is one change."""


class Changes:
    """Wakes one loop when something changes. For one event loop.

    On PostgreSQL a connection listens (LISTEN and NOTIFY); elsewhere the loop asks ten times a second.

    Args:
        database: the registry.
        topics: what to be told of; see Database.tell.
    """

    def __init__(self, database: Database, topics: Collection[str]) -> None:
        self._database = database
        self._topics = frozenset(topics)
        self._changed = asyncio.Event()
        self._listening = False

    def wake(self) -> None:
        """End the current wait, or the next."""
        self._changed.set()

    async def wait(self, at_most_s: float = math.inf) -> None:
        """Return when something may have changed since the last wait, or has to be asked for."""
        ask_s = _POLL_S if not self._database.tells else _TOLD_S if self._listening else _LOST_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(at_most_s, ask_s)):
                await self._changed.wait()
                await asyncio.sleep(_GATHER_S)
        self._changed.clear()

    async def listen(self) -> None:
        """Listen until cancelled; a connection that breaks is made again."""
        said = False
        while self._database.tells:
            try:
                async for topic in self._database.told():
                    self._listening, said = True, False
                    if topic is None or topic in self._topics:
                        self.wake()
            except Exception as error:
                if not said:
                    logger.warning("not told of the registry's changes, asking every second: %s", error)
                said = True
            self._listening = False
            await asyncio.sleep(_LOST_S)
