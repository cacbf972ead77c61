"""Maps public names to revisions, for new requests and for those still running."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from dear_serving.adapters.heartbeats import HEARTBEAT_S, GatewayHeartbeat, Heartbeats
from dear_serving.adapters.polling import attempt
from dear_serving.adapters.revisions import Adapters, Pointers


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model behind a public name.

    Args:
        name: the public name.
        adapter: the revision's name in the engines; None for the base model.
        template: name of its prompt template.
        shared: whether every tenant may use it.
    """

    name: str
    adapter: str | None
    template: str
    shared: bool = True

    @property
    def revision(self) -> str:
        """The id shown in replies: the revision's, or the base model's name."""
        return self.adapter or self.name


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """All served models at one version of the registry, by public name, the base model first.

    ``default`` answers requests that name no model.
    """

    version: int
    served: Mapping[str, ServedModel]
    default: str


class Catalog:
    """One gateway's copy of the registry's pointers. Not thread-safe: for one event loop.

    A request keeps the snapshot from its start, so that one revision answers all of it. The gateway reports
    to the registry which snapshots are still in use.

    Args:
        gateway: this gateway's id; never used before.
        base: the base model.
        adapters: the registry's revisions and pointers.
        heartbeats: where this gateway reports the version it uses.
        default: public name of the model for requests that name none; None: the base model.
    """

    def __init__(
        self,
        gateway: str,
        base: ServedModel,
        adapters: Adapters,
        heartbeats: Heartbeats,
        default: str | None = None,
    ) -> None:
        self.gateway = gateway
        self._base = base
        self._adapters = adapters
        self._heartbeats = heartbeats
        self._in_use: Counter[int] = Counter()
        self._reported: GatewayHeartbeat | None = None
        self._reported_s = 0.0
        self._reporting = asyncio.Lock()
        self.on_release: Callable[[], None] = lambda: None
        """Called when the last request ends that uses an older version than the current one."""
        self._default = default or base.name
        self.models = CatalogSnapshot(0, MappingProxyType({base.name: base}), self._default)

    @contextmanager
    def hold(self) -> Iterator[CatalogSnapshot]:
        """The current snapshot, counted as in use until the block ends."""
        models = self.models
        self._in_use[models.version] += 1
        try:
            yield models
        finally:
            self._in_use[models.version] -= 1
            if not self._in_use[models.version]:
                del self._in_use[models.version]
                if models.version != self.models.version:
                    self.on_release()

    async def refresh(self) -> None:
        """Adopt the registry's current version, and report it.

        Raises:
            RegistryUnavailable: the models stay as they were.
        """
        if self._reported is None:
            # Report before reading the pointers, so that no revision in them is unloaded meanwhile.
            await self._report()
        if await asyncio.to_thread(self._adapters.version) != self.models.version:
            pointers = await asyncio.to_thread(self._adapters.pointers)
            self.models = CatalogSnapshot(pointers.version, self._served(pointers), self._default)
        await self._report()

    async def leave(self) -> None:
        """Report that this gateway is shutting down."""
        await asyncio.to_thread(self._heartbeats.forget, self.gateway)

    async def report_regularly(self) -> None:
        """Report until cancelled, also while nothing changes or a round takes long."""
        while True:
            await asyncio.sleep(HEARTBEAT_S / 2)
            if self._reported is not None:
                await attempt(self._report)

    async def _report(self) -> None:
        async with self._reporting:  # else an older report could replace a newer one
            adopted = self.models.version
            heartbeat = GatewayHeartbeat(self.gateway, adopted, min(self._in_use, default=adopted))
            if heartbeat != self._reported:
                await asyncio.to_thread(self._heartbeats.report_gateway, heartbeat)
            elif time.monotonic() - self._reported_s >= HEARTBEAT_S:
                await asyncio.to_thread(self._heartbeats.renew, heartbeat)
            else:
                return
            self._reported, self._reported_s = heartbeat, time.monotonic()

    def _served(self, pointers: Pointers) -> Mapping[str, ServedModel]:
        served = {self._base.name: self._base}
        for name, revision in pointers.active.items():
            if name != self._base.name:
                served[name] = ServedModel(name, revision.id, revision.template, name in pointers.shared)
        return MappingProxyType(served)
