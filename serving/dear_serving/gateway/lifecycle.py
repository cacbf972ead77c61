"""Moves revisions from state to state: registered, staged, active, draining, retired or failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from dear_serving.adapters.heartbeats import Alive, Heartbeats
from dear_serving.adapters.intake import Intake
from dear_serving.adapters.polling import attempt
from dear_serving.adapters.revisions import Adapters, Revision, State
from dear_serving.errors import (
    DearError,
    EngineUnavailable,
    InvalidAdapterFiles,
    InvalidRequest,
    Overloaded,
    RequestError,
)
from dear_serving.gateway.catalog import Catalog

logger = logging.getLogger(__name__)

Canary = Callable[[Revision], Awaitable[object]]
"""Ranks a list with a revision that is on all engines; raises DearError, with a reason, if that fails."""


class Observer(Protocol):
    """Is notified of changes."""

    def swapped(self, model: str) -> None:
        """This gateway now uses another revision for a name."""
        ...

    def drop_all_but(self, models: Collection[str], revisions: Collection[str]) -> None:
        """Only these names are served, and only these revisions are served or on the engines."""
        ...


_SETTLED_POLL_S = 0.02
_UNFINISHED_S = 1.0
_RETRY_S = 1.0
_CANARY_S = 60.0
_SWEEP_S = 60.0


class Lifecycle:
    """The state machine of revisions. Every gateway runs it; a step taken by two gateways counts once.

    Args:
        adapters: the registry's revisions.
        heartbeats: which processes are alive.
        catalog: this gateway's pointers.
        intake: copies and checks new adapters.
        canary: ranks a list with a revision.
        observer: is notified of changes.
    """

    def __init__(
        self,
        adapters: Adapters,
        heartbeats: Heartbeats,
        catalog: Catalog,
        intake: Intake,
        canary: Canary,
        observer: Observer,
    ) -> None:
        self.adapters = adapters
        self._heartbeats = heartbeats
        self._catalog = catalog
        self._intake = intake
        self._canary = canary
        self._observer = observer
        self._turn = asyncio.Lock()
        self._canaries: dict[str, asyncio.Task[None]] = {}
        self._quiet_version = -1
        self._changes = adapters.changes(reports=True)
        catalog.on_release = self._changes.wake
        self._swept_s = 0.0

    async def register(
        self,
        name: str,
        source: str,
        *,
        template: str,
        shared: bool | None,
        tenants: Sequence[str],
        activate: bool,
        actor: str,
    ) -> Revision:
        """Register an adapter from a folder or URL; see Adapters.register and Intake.take.

        Raises:
            InvalidRequest: the adapter's files cannot be served; ``param`` is ``source``.
        """
        try:
            content = await asyncio.to_thread(self._intake.take, name, source)
        except InvalidAdapterFiles as error:
            raise InvalidRequest(error.message, param="source") from None
        return await asyncio.to_thread(
            lambda: self.adapters.register(
                name,
                content,
                template=template,
                shared=shared,
                tenants=tenants,
                activate=activate,
                actor=actor,
            )
        )

    async def wait_until_settled(self, revision: Revision, timeout_s: float) -> Revision:
        """The revision once its change is complete on all gateways, or as it is after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self.round()
                    adapter = await asyncio.to_thread(self.adapters.get, revision.name)
                    revision = next(found for found in adapter.revisions if found.digest == revision.digest)
                    alive = await self.alive()
                    if not _is_on_its_way(revision) and alive.adopted(revision.version):
                        break
                    await asyncio.sleep(_SETTLED_POLL_S)
        except TimeoutError:
            pass
        return revision

    async def alive(self) -> Alive:
        """The live gateways and replicas, and the revisions that replicas hold."""
        return await asyncio.to_thread(self._heartbeats.alive)

    async def run(self) -> None:
        """Run rounds and report until cancelled; errors are logged and retried."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._changes.listen())
            tasks.create_task(self._catalog.report_regularly())
            tasks.create_task(self._run_rounds())

    async def _run_rounds(self) -> None:
        while True:
            if not await attempt(self.round):
                await asyncio.sleep(_RETRY_S)
            elif self._catalog.models.version == self._quiet_version:
                await self._changes.wait()
            else:  # nobody tells of a process that died, or of a canary that is to be tried again
                await self._changes.wait(_UNFINISHED_S)

    async def round(self) -> None:
        """Refresh the catalog, and advance every revision that can advance."""
        async with self._turn:
            await self._refresh_catalog()
            models = self._catalog.models
            if models.version == self._quiet_version:
                return
            version, revisions = await asyncio.to_thread(self.adapters.wanted_on_engines)
            moving = [
                revision for revision in revisions if revision.state in (State.REGISTERED, State.DRAINING)
            ]
            if not moving:
                self._quiet_version = version
                wanted_on_engines = {revision.id for revision in revisions}
                used = {served.revision for served in models.served.values()}
                self._observer.drop_all_but(models.served.keys(), wanted_on_engines | used)
                return
            alive = await self.alive()
            for revision in moving:
                await self._advance(revision, alive)
            await self._refresh_catalog()
            if time.monotonic() - self._swept_s > _SWEEP_S:
                self._swept_s = time.monotonic()
                await asyncio.to_thread(self._heartbeats.drop_expired)

    async def _refresh_catalog(self) -> None:
        before = self._catalog.models.served
        await self._catalog.refresh()
        for name, served in self._catalog.models.served.items():
            if name in before and before[name].adapter != served.adapter:
                self._observer.swapped(name)

    async def _advance(self, revision: Revision, alive: Alive) -> None:
        if revision.state is State.DRAINING:
            if alive.all_began_at(revision.version):
                await asyncio.to_thread(self.adapters.drained, revision)
            return
        # Reports from before this version of the revision do not count.
        reports = [replica.holds for replica in alive.replicas if replica.adopted >= revision.version]
        reason = next((held[revision.id] for held in reports if held.get(revision.id) is not None), None)
        if reason is not None:
            await asyncio.to_thread(self.adapters.failed, revision, reason)
            return
        held_by_all = len(reports) == len(alive.replicas) > 0 and all(revision.id in held for held in reports)
        if held_by_all and revision.id not in self._canaries:
            # Run it in the background, so that other names do not wait for a busy engine.
            canary = asyncio.create_task(self._run_canary(revision))
            self._canaries[revision.id] = canary
            canary.add_done_callback(lambda _: self._canaries.pop(revision.id))

    async def _run_canary(self, revision: Revision) -> None:
        try:
            try:
                async with asyncio.timeout(_CANARY_S):
                    await self._canary(revision)
            except (EngineUnavailable, Overloaded) as error:
                logger.warning("retrying the canary of %s: %s", revision.id, error.message)
                await asyncio.sleep(_RETRY_S)
            except TimeoutError:
                reason = f"no answer in {_CANARY_S:.0f} s"
                await asyncio.to_thread(self.adapters.failed, revision, reason)
            except DearError as error:
                await asyncio.to_thread(self.adapters.failed, revision, error.message)
            else:
                await asyncio.to_thread(self.adapters.staged, revision)
        except RequestError as error:
            logger.warning("retrying the canary of %s: %s", revision.id, error.message)
        except Exception:
            logger.exception("retrying the canary of %s", revision.id)
            await asyncio.sleep(_RETRY_S)


def _is_on_its_way(revision: Revision) -> bool:
    return revision.state in (State.REGISTERED, State.DRAINING) or revision.activate
