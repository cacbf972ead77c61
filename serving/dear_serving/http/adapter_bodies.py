"""Bodies of the admin routes for adapters, and of vLLM's two paths."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dear_tools.names import Name, TemplateName

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
    template: TemplateName | None = None
    shared: bool | None = None
    tenants: Annotated[list[str], Field(max_length=1000)] = []
    activate: bool = False
    wait_s: WaitSeconds = 120.0


class Activation(_Body):
    """The revision that the name will point at."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "5fabd8866f8f"}]})

    revision: RevisionId
    wait_s: WaitSeconds = 120.0


class Rollback(_Body):
    """Point the name at the revision before; with ``revision``, only if it is that one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"wait_s": 30}]})

    revision: RevisionId | None = None
    wait_s: WaitSeconds = 120.0


class Retirement(_Body):
    """The revision to retire; without one, the name with all of its revisions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "5fabd8866f8f"}]})

    revision: RevisionId | None = None


class Sharing(_Body):
    """Whether every tenant may use a name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"shared": False}]})

    shared: bool


class VllmLoad(BaseModel):
    """vLLM's body of /v1/load_lora_adapter; other fields are ignored."""

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
