"""An engine replica's side: it holds what the registry says engines are to have, and says what it holds."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Protocol

from dear_serving.adapters.fleet import BEAT_S, Fleet, ReplicaLife
from dear_serving.adapters.revisions import Adapters, Revision
from dear_serving.adapters.store import Store
from dear_serving.errors import DearError, RequestError

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_RETRY_S = 1.0
_TRIES = 3


class Loader(Protocol):
    """What an engine does with adapters."""

    async def load(self, revision: str, folder: Path) -> None:
        """Take a revision's weights in and try them; raises DearError, with a reason, and holds nothing."""
        ...

    async def unload(self, revision: str) -> bool:
        """Let go of it; False, and nothing is changed, while a request uses it."""
        ...


class Holdings:
    """Brings one engine replica to what the registry wants, again and again.

    Args:
        replica: its id, one that no other had.
        adapters: what it is to hold.
        fleet: told what it holds.
        store: where weights come from.
        cache: folder for copies of them.
        loader: the engine.
    """

    def __init__(
        self, replica: str, adapters: Adapters, fleet: Fleet, store: Store, cache: Path, loader: Loader
    ) -> None:
        self._replica = replica
        self._adapters = adapters
        self._fleet = fleet
        self._store = store
        self._cache = cache
        self._loader = loader
        self._version = -1
        self._held: dict[str, str | None] = {}
        self._failures: dict[str, int] = {}
        self._settled = False
        self._beat_s = -BEAT_S

    async def start(self) -> None:
        """Rounds until all that is wanted is held, or is known not to load."""
        while not self._settled:
            try:
                await self.sync()
            except RequestError as error:
                logger.warning("waiting for the registry: %s", error.message)
            if not self._settled:
                await asyncio.sleep(_RETRY_S)

    def held(self) -> list[str]:
        """Ids of the revisions that are loaded."""
        return [revision for revision, reason in self._held.items() if reason is None]

    async def sync(self) -> None:
        """One round: take in what is missing, let go of what is not wanted, say so where it changed.

        Raises:
            RegistryUnavailable: nothing is changed then; what is held stays.
        """
        version = await asyncio.to_thread(self._adapters.version)
        if version != self._version or not self._settled:
            self._version, wanted = await asyncio.to_thread(self._adapters.on_engines)
            before = dict(self._held)
            gone = await self._let_go({revision.id for revision in wanted})
            taken = [await self._take(revision) for revision in wanted]
            self._settled = gone and all(taken)
            if before != self._held:
                self._beat_s = -BEAT_S
        if time.monotonic() - self._beat_s >= BEAT_S:
            await asyncio.to_thread(self._fleet.replica_lives, ReplicaLife(self._replica, dict(self._held)))
            self._beat_s = time.monotonic()

    async def run(self) -> None:
        """Rounds, for ever."""
        while True:
            pause_s = _POLL_S
            try:
                await self.sync()
                if self._failures:
                    pause_s = _RETRY_S
            except RequestError as error:
                logger.warning("adapters stay as they are: %s", error.message)
                pause_s = _RETRY_S
            except Exception:  # the next round may go better; without rounds adapters would stand still
                logger.exception("adapters stay as they are")
                pause_s = _RETRY_S
            await asyncio.sleep(pause_s)

    async def _let_go(self, wanted: set[str]) -> bool:
        """Whether nothing is held that is not wanted."""
        clean = True
        for revision in [one for one in self._held if one not in wanted]:
            if self._held[revision] is not None or await self._loader.unload(revision):
                del self._held[revision]
                self._failures.pop(revision, None)
            else:
                clean = False
        return clean

    async def _take(self, revision: Revision) -> bool:
        """Whether it is held, or will not be. What fails is tried three times before that is said."""
        if revision.id in self._held:
            return True
        try:
            folder = await asyncio.to_thread(self._store.fetch, revision.digest, self._cache)
            await self._loader.load(revision.id, folder)
        except DearError as error:
            tries = self._failures[revision.id] = self._failures.get(revision.id, 0) + 1
            logger.warning("%s could not be loaded (try %d): %s", revision.id, tries, error.message)
            if tries < _TRIES:
                return False
            self._held[revision.id] = error.message
        else:
            self._held[revision.id] = None
        self._failures.pop(revision.id, None)
        return True
