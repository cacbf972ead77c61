"""Replies of the admin routes for adapters."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from dear_serving.adapters.heartbeats import Alive
from dear_serving.adapters.revisions import Adapter, Revision, State
from dear_serving.http.reply import Reply, Time


class RevisionReply(Reply):
    """A revision: weights and settings that never change."""

    object: Literal["revision"] = "revision"
    id: str
    name: str
    state: State
    reason: str | None = Field(description="Why it failed.")
    template: str
    rank: int
    bytes: int
    created: Time
    changed: Time

    @classmethod
    def of(cls, revision: Revision, **more: dict[str, str]) -> Self:
        """The registry's revision; ``more`` are the fields of a subclass."""
        return cls(
            id=revision.id,
            name=revision.name,
            state=revision.state,
            reason=revision.reason,
            template=revision.template,
            rank=revision.rank,
            bytes=revision.size_bytes,
            created=revision.created_s,
            changed=revision.changed_s,
            **more,
        )


class HeldRevision(RevisionReply):
    """A revision, and the replicas that hold it."""

    replicas: dict[str, str] = Field(description='By replica id: "held", or why it could not be loaded.')


class AdapterReply(Reply):
    """A public name, and its revisions, newest first."""

    object: Literal["adapter"] = "adapter"
    name: str
    shared: bool
    active: str | None = Field(description="The revision that the name points at.")
    previous: str | None = Field(description="The revision that a rollback activates.")
    created: Time
    revisions: list[HeldRevision]

    @classmethod
    def of(cls, adapter: Adapter, alive: Alive) -> Self:
        """An adapter with what the living replicas hold."""
        return cls(
            name=adapter.name,
            shared=adapter.shared,
            active=adapter.active,
            previous=adapter.previous,
            created=adapter.created_s,
            revisions=[HeldRevision.of(one, replicas=_holders(one, alive)) for one in adapter.revisions],
        )


class AdapterPage(Reply):
    """Adapters by name; ``next`` is the ``after`` of the next page."""

    object: Literal["list"] = "list"
    data: list[AdapterReply]
    next: str | None


def _holders(revision: Revision, alive: Alive) -> dict[str, str]:
    return {
        replica.id: replica.holds[revision.id] or "held"
        for replica in alive.replicas
        if revision.id in replica.holds
    }
