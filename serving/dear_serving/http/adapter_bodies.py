"""Bodies and replies of the admin routes for adapters."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from dear_serving.adapters.heartbeats import Alive
from dear_serving.adapters.revisions import Adapter, Revision, State
from dear_serving.http.reply import Reply, Time
from dear_serving.settings import Name

Source = Annotated[str, Field(min_length=1, max_length=1000)]
RevisionId = Annotated[str, Field(min_length=6, max_length=200)]
WaitSeconds = Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewAdapter(_Body):
    """An adapter to register, or another revision of one.

    ``source`` is a folder inside adapters.root or a URL under one of adapters.sources. Without ``template``
    it is that of the name's active revision, else the plain one. With ``tenants`` the name is theirs alone,
    unless ``shared``. ``wait_s``: how long the reply may wait for it to be staged, or active.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "desk", "source": "legal", "activate": True}]}
    )

    name: Name
    source: Source
    template: Annotated[str, Field(max_length=128)] | None = None
    shared: bool | None = None
    tenants: Annotated[list[str], Field(max_length=1000)] = []
    activate: bool = False
    wait_s: WaitSeconds = 120.0


class Activation(_Body):
    """The revision that a name is to point at."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "5fabd8866f8f"}]})

    revision: RevisionId
    wait_s: WaitSeconds = 120.0


class Rollback(_Body):
    """Back to the revision before."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"wait_s": 30}]})

    wait_s: WaitSeconds = 120.0


class Retirement(_Body):
    """The revision to take out of service; without one, the name with all of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "5fabd8866f8f"}]})

    revision: RevisionId | None = None


class Sharing(_Body):
    """Whether every tenant may use a name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"shared": False}]})

    shared: bool


class VllmLoad(BaseModel):
    """vLLM's body of /v1/load_lora_adapter; what else it may hold has no meaning here."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"lora_name": "clinic", "lora_path": "medical"}]}
    )

    lora_name: Name
    lora_path: Source
    load_inplace: bool = False


class VllmUnload(BaseModel):
    """vLLM's body of /v1/unload_lora_adapter."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"lora_name": "clinic"}]})

    lora_name: Name


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

    replicas: dict[str, str] = Field(description='"held", or why not, by the replica\'s id.')


class AdapterReply(Reply):
    """A public name, and its revisions, newest first."""

    object: Literal["adapter"] = "adapter"
    name: str
    shared: bool
    active: str | None = Field(description="The revision that the name points at.")
    previous: str | None = Field(description="The revision that a rollback goes to.")
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
