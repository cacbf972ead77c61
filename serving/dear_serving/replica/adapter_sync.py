"""An engine replica's side: it holds what the registry says engines are to have, and says what it holds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dear_serving.adapters.heartbeats import HEARTBEAT_S, Heartbeats, ReplicaHeartbeat
from dear_serving.adapters.polling import attempt
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


class AdapterSync:
    """Brings one engine replica to what the registry wants, again and again.

    Args:
        replica: its id, one that no other had.
        adapters: what it is to hold.
        heartbeats: told what it holds.
        store: where weights come from.
        cache: folder for copies of them.
        loader: the engine.
    """

    def __init__(
        self,
        replica: str,
        adapters: Adapters,
        heartbeats: Heartbeats,
        store: Store,
        cache: Path,
        loader: Loader,
    ) -> None:
        self._replica = replica
        self._adapters = adapters
        self._heartbeats = heartbeats
        self._store = store
        self._cache = cache
        self._loader = loader
        self._version = -1
        self._held: dict[str, _Held] = {}
        self._failures: Counter[str] = Counter()
        self._settled = False
        self._missing = -1
        self._saying = asyncio.Lock()
        self._said: ReplicaHeartbeat | None = None
        self._said_s = 0.0

    async def start(self) -> None:
        """Rounds until all that is wanted is held, or known not to load; from now on says that it lives."""
        self._beating = asyncio.create_task(self._beat())
        while not (await self._round() or self._missing == 0):  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Rounds, for ever."""
        while True:
            pause_s = _POLL_S if await self._round() else _RETRY_S
            await asyncio.sleep(pause_s)

    def held(self) -> list[str]:
        """Ids of the revisions that are loaded."""
        return [revision for revision, held in self._held.items() if held.reason is None]

    async def sync(self) -> None:
        """One round: let go of what is not wanted, take in what is missing, say so where it changed.

        Raises:
            RegistryUnavailable: nothing is changed then; what is held stays.
        """
        version = await asyncio.to_thread(self._adapters.version)
        if version != self._version or not self._settled:
            version, wanted = await asyncio.to_thread(self._adapters.on_engines)
            self._settled = False
            gone = await self._let_go({revision.id for revision in wanted})
            # Before anything is loaded, which takes time: nobody is to count on what is gone.
            await self._say()
            taken = [await self._take(revision) for revision in wanted]
            self._version, self._settled = version, gone and all(taken)
            self._missing = sum(revision.id not in self._held for revision in wanted)
        await self._say()

    async def _round(self) -> bool:
        """Whether all went well, so that nothing has to be tried again."""
        return await attempt(self.sync) and self._settled

    async def _beat(self) -> None:
        """Say that it lives also while something large is loaded."""
        while True:
            try:
                await self._say()
            except RequestError as error:
                logger.warning("not heard: %s", error.message)
            await asyncio.sleep(HEARTBEAT_S / 2)

    async def _say(self) -> None:
        async with self._saying:  # or an older word could come after a newer one
            holds = {revision: held.reason for revision, held in self._held.items()}
            life = ReplicaHeartbeat(self._replica, self._version, holds)
            if life != self._said or time.monotonic() - self._said_s >= HEARTBEAT_S:
                await asyncio.to_thread(self._heartbeats.report_replica, life)
                self._said, self._said_s = life, time.monotonic()

    async def _let_go(self, wanted: set[str]) -> bool:
        """Whether nothing is held that is not wanted."""
        clean = True
        for revision in [one for one in self._held if one not in wanted]:
            if self._held[revision].reason is not None or await self._loader.unload(revision):
                del self._held[revision]
            else:
                clean = False
        for revision in self._failures.keys() - wanted:
            del self._failures[revision]
        return clean

    async def _take(self, revision: Revision) -> bool:
        """Whether it is held, or it is known that it will not be.

        What fails is tried three times before that is said; what a store or an engine could not give for now
        is tried after that too, as long as it is wanted.
        """
        held = self._held.get(revision.id)
        if held is not None and (held.reason is None or (held.final and held.version == revision.version)):
            return True
        try:
            folder = await asyncio.to_thread(self._store.fetch, revision.digest, self._cache)
            await self._loader.load(revision.id, folder)
        except DearError as error:
            self._failures[revision.id] += 1
            tries = self._failures[revision.id]
            logger.warning("%s could not be loaded (try %d): %s", revision.id, tries, error.message)
            final = not isinstance(error, RequestError)
            if tries < _TRIES:
                return False
            self._held[revision.id] = _Held(error.message, revision.version, final)
            if final:
                del self._failures[revision.id]
            return final
        self._held[revision.id] = _Held(None, revision.version)
        self._failures.pop(revision.id, None)
        return True


@dataclass(frozen=True, slots=True)
class _Held:
    """A revision that is loaded, or why not; as of which version of it, and whether that is the last word."""

    reason: str | None
    version: int
    final: bool = True
