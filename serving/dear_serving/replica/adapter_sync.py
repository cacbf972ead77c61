"""Loads and unloads one engine's adapters to match the registry, and reports which are loaded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dear_serving.adapters.heartbeats import HEARTBEAT_S, Heartbeats, ReplicaHeartbeat
from dear_serving.adapters.polling import attempt
from dear_serving.adapters.revisions import Adapters, Revision
from dear_serving.adapters.store import Store
from dear_serving.errors import DearError, RequestError, StoreUnavailable

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_TRIES = 3


class AdapterLoader(Protocol):
    """The engine's operations on adapters."""

    async def load(self, revision: str, folder: Path) -> None:
        """Load a revision's weights and test them; on failure raises DearError and keeps nothing loaded."""
        ...

    async def unload(self, revision: str) -> bool:
        """Unload a revision; returns False and changes nothing while a request uses it."""
        ...


class AdapterSync:
    """Keeps one engine replica in sync with the registry.

    Args:
        replica: the replica's id; never used before.
        adapters: the registry's list of wanted revisions.
        heartbeats: where the replica reports its revisions.
        store: source of the weights.
        cache: folder for local copies of the weights.
        loader: the engine.
        on_failure: called when a revision is given up.
    """

    def __init__(
        self,
        replica: str,
        adapters: Adapters,
        heartbeats: Heartbeats,
        store: Store,
        cache: Path,
        loader: AdapterLoader,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._replica = replica
        self._adapters = adapters
        self._changes = adapters.changes()
        self._heartbeats = heartbeats
        self._store = store
        self._cache = cache
        self._loader = loader
        self._on_failure = on_failure
        self._version = -1
        self._held: dict[str, _Outcome] = {}
        self._failures: Counter[str] = Counter()
        self._settled = False
        self._missing = -1
        self._reporting = asyncio.Lock()
        self._reported: ReplicaHeartbeat | None = None
        self._reported_s = 0.0
        self._regular_reports: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Sync an engine that holds nothing, until every wanted revision is loaded or has failed.

        A store that does not answer is waited for, until the engine's own limit of time ends this.

        Also starts the regular reports. Called again for an engine in the place of one that died.
        """
        self._held.clear()
        self._failures.clear()
        self._settled, self._missing = False, -1
        self._regular_reports = self._regular_reports or asyncio.create_task(self._report_regularly())
        while not (await self._round() or self._missing == 0):  # noqa: ASYNC110
            await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Sync whenever something changed, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._changes.listen())
            tasks.create_task(self._run_rounds())

    async def _run_rounds(self) -> None:
        while True:
            if await self._round():
                await self._changes.wait()
            else:
                await asyncio.sleep(_RETRY_S)

    def held(self) -> list[str]:
        """Ids of the revisions that are loaded."""
        return [revision for revision, held in self._held.items() if held.reason is None]

    def outcomes(self) -> dict[str, str | None]:
        """Revision -> None where it is loaded, or why it could not be; safe to call from any thread."""
        return {revision: held.reason for revision, held in list(self._held.items())}

    async def sync(self) -> None:
        """Sync once: unload what is not wanted, load what is missing, report changes.

        Raises:
            RegistryUnavailable: the loaded revisions stay unchanged.
        """
        version = await asyncio.to_thread(self._adapters.version)
        if version != self._version or not self._settled:
            version, wanted = await asyncio.to_thread(self._adapters.wanted_on_engines)
            self._settled = False
            clean = await self._unload_unwanted({revision.id for revision in wanted})
            # Loading takes time, so report the unloaded revisions first.
            await self._report()
            settled = [await self._load(revision) for revision in wanted]
            self._version, self._settled = version, clean and all(settled)
            self._missing = sum(
                revision.id not in self._held or self._held[revision.id].waits for revision in wanted
            )
        await self._report()

    async def _round(self) -> bool:
        """Sync once; returns False if something has to be retried."""
        return await attempt(self.sync) and self._settled

    async def _report_regularly(self) -> None:
        """Report regularly, also while a large adapter is being loaded."""
        while True:
            try:
                await self._report()
            except RequestError as error:
                logger.warning("heartbeat not stored: %s", error.message)
            await asyncio.sleep(HEARTBEAT_S / 2)

    async def _report(self) -> None:
        async with self._reporting:  # else an older report could replace a newer one
            heartbeat = ReplicaHeartbeat(self._replica, self._version, self.outcomes())
            if heartbeat != self._reported:
                await asyncio.to_thread(self._heartbeats.report_replica, heartbeat)
            elif time.monotonic() - self._reported_s >= HEARTBEAT_S:
                await asyncio.to_thread(self._heartbeats.renew, heartbeat)
            else:
                return
            self._reported, self._reported_s = heartbeat, time.monotonic()

    async def _unload_unwanted(self, wanted: set[str]) -> bool:
        """Unload revisions that are not wanted; returns False if one is still in use."""
        clean = True
        for revision in [held for held in self._held if held not in wanted]:
            if self._held[revision].reason is not None or await self._loader.unload(revision):
                del self._held[revision]
            else:
                clean = False
        for revision in self._failures.keys() - wanted:
            del self._failures[revision]
        return clean

    async def _load(self, revision: Revision) -> bool:
        """Load a revision; returns True if it is loaded or has failed for good.

        A failure is reported after three tries. If the store or the engine was only unavailable, loading is
        retried after that as well, as long as the revision is wanted.
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
            waits = isinstance(error, StoreUnavailable) and error.retry_after_s is not None
            if tries == _TRIES:  # later ones are the same failure
                self._on_failure()
            self._held[revision.id] = _Outcome(error.message, revision.version, final, waits)
            if final:
                del self._failures[revision.id]
            return final
        self._held[revision.id] = _Outcome(None, revision.version)
        self._failures.pop(revision.id, None)
        return True


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of loading a ``version`` of a revision: ``reason`` is None, or why it failed. A ``final``
    failure is not retried; one that ``waits`` is the store's, which does not answer."""

    reason: str | None
    version: int
    final: bool = True
    waits: bool = False
