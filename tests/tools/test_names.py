"""Names of adapters, tenants and templates: one rule wherever they come in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from dear_serving.http.adapter_bodies import NewAdapter, VllmLoad
from dear_serving.http.tenant_bodies import Grant, NewTenant
from dear_serving.settings import AdapterSettings, ModelSettings
from dear_tools.admin.apply_file import WantedAdapter, WantedTenant

NAMES: dict[str, Callable[[str], object]] = {
    "the model's id": lambda name: ModelSettings(id=name),
    "an adapter in the settings": lambda name: AdapterSettings(name=name, path="x"),
    "an adapter to register": lambda name: NewAdapter(name=name, source="x"),
    "vLLM's body": lambda name: VllmLoad(lora_name=name, lora_path="x"),
    "a grant": lambda name: Grant(adapter=name),
    "an adapter to apply": lambda name: WantedAdapter(name=name, source="x"),
    "a grant to apply": lambda name: WantedTenant(id="x", grants=(name,)),
}
TEMPLATES: dict[str, Callable[[str], object]] = {
    "the model's": lambda name: ModelSettings(id="x", template=name),
    "an adapter's in the settings": lambda name: AdapterSettings(name="x", path="x", template=name),
    "an adapter's to register": lambda name: NewAdapter(name="x", source="x", template=name),
    "an adapter's to apply": lambda name: WantedAdapter(name="x", source="x", template=name),
}
TENANTS: dict[str, Callable[[str], object]] = {
    "created": lambda name: NewTenant(id=name),
    "applied": lambda name: WantedTenant(id=name),
}
NO_SEGMENTS = ["", ".", "..", ".a", "-a", "a b", "a\n", "a\x00", "a\\b", "ä", "%2e", "a" * 129]
NO_NAMES = [*NO_SEGMENTS, "a/..", "a/../b", "../a", "a/.", "a//b", "/a", "a/", "a/.b"]


@pytest.mark.parametrize("make", NAMES.values(), ids=NAMES.keys())
def test_names_of_models(make: Callable[[str], object]) -> None:
    for name in ("a", "legal-2.1_x", "org/model", "A/b/c.d", "a..b", "a" * 128):
        make(name)
    for name in NO_NAMES:
        with pytest.raises(ValidationError):
            make(name)


@pytest.mark.parametrize("make", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_names_of_templates(make: Callable[[str], object]) -> None:
    for name in ("chat", "own-2.1_x"):
        make(name)
    for name in [*NO_NAMES, "a/b"]:
        with pytest.raises(ValidationError):
            make(name)


@pytest.mark.parametrize("make", TENANTS.values(), ids=TENANTS.keys())
def test_names_of_tenants(make: Callable[[str], object]) -> None:
    for name in ("acme", "acme-2_x", "a" * 63):
        make(name)
    for name in [*NO_NAMES, "a/b", "A", "a.b", "a" * 64]:
        with pytest.raises(ValidationError):
            make(name)
