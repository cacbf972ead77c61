"""The direction of imports, read from the source: which part of the house may know which."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"dear_serving": ROOT / "serving", "dear_client": ROOT / "client", "dear_tools": ROOT / "client"}

_NOUNS = {"types", "errors"}
_SHARED = _NOUNS | {
    "autoscaling",
    "loopback",
    "nodes",
    "protocol",
    "openai",
    "settings",
    "metrics",
    "metrics_export",
    "registry",
    "logs",
    "tracing",
}
_GATEWAY = _SHARED | {"ranking", "adapters", "tenancy"}

# What each folder or file of dear_serving may import of the others. Nothing may import http.
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "protocol": _NOUNS,
    "openai": {"errors"},
    "autoscaling": set(),
    "loopback": set(),
    "nodes": set(),
    "settings": _NOUNS,
    "metrics": _NOUNS,
    "metrics_export": set(),
    "logs": {"errors", "settings"},
    "tracing": {"errors", "settings"},
    "registry": {"errors"},
    "ranking": _NOUNS,
    "tenancy": {"errors", "settings", "registry"},
    "adapters": _NOUNS | {"settings", "registry", "ranking"},
    "sizing": _NOUNS | {"settings", "ranking", "adapters"},
    "inside_vllm": set(),
    "gateway": _GATEWAY,
    "http": _GATEWAY | {"gateway"},
    "replica": _SHARED | {"adapters", "autoscaling", "inside_vllm"},
    "app": _GATEWAY | {"http", "replica", "gateway"},
    "process": {"errors", "settings", "adapters", "app"},
    "cli": _NOUNS | {"settings", "registry", "adapters", "ranking", "process", "sizing", "gateway"},
    "__main__": {"cli"},
}

# Libraries that belong to one place.
ONLY_IN: dict[str, set[str]] = {
    "ray": {
        "replica",
        "gateway.engine_client",
        "gateway.everyone",
        "metrics_export",
        "gateway.replica_choice",
        "http.ingress",
        "app",
        "process",
        "loopback",
        "nodes",
    },
    "vllm": {"inside_vllm", "replica"},
    "torch": {"inside_vllm"},
    "transformers": {"gateway.tokenizer", "gateway.grammar_check", "adapters"},
    "xgrammar": {"gateway.grammar_check"},
    "fastapi": {"http"},
    "starlette": {"http"},
    "httpx": set(),  # dear_client has it
    "sqlalchemy": {"registry", "tenancy", "adapters"},
    "alembic": {"registry"},
    "fsspec": {"adapters"},
    "limits": {"gateway.budgets"},
    "redis": {"gateway.shared_counts"},
    "opentelemetry": {"tracing"},
}
CLIENT_LIBRARIES = {"dear_client", "httpx", "pydantic"}


def modules() -> dict[str, str]:
    """The source of every module by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for file in sorted((folder / package).rglob("*.py")):
            name = ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
            found[name] = file.read_text(encoding="utf-8")
    return found


def imports_of(source: str) -> Iterator[str]:
    """Everything a module imports, anywhere in it. Ruff forbids relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """Imports against the drawn direction."""
    package, _, inner = module.partition(".")
    part = inner.partition(".")[0]
    wrong = []
    for name in imports_of(source):
        library, _, imported = name.partition(".")
        target = imported.partition(".")[0]
        if library == "dear_serving":
            is_fine = package == library and (target in MAY_IMPORT.get(part, set()) | {part, "__version__"})
        elif package == "dear_client":
            is_fine = library in CLIENT_LIBRARIES | sys.stdlib_module_names
        elif package == "dear_tools":
            is_fine = library not in ONLY_IN or library == "httpx"
        else:
            places = ONLY_IN.get(library)
            is_fine = places is None or any(f"{inner}.".startswith(f"{place}.") for place in places)
        if not is_fine:
            wrong.append(f"{module} imports {name}")
    return wrong


def test_every_import_keeps_to_its_direction() -> None:
    sources = modules()
    assert len(sources) > 150
    assert [one for module, source in sources.items() for one in violations(module, source)] == []


def test_every_part_of_the_server_has_a_direction() -> None:
    parts = {name.split(".")[1] for name in modules() if name.startswith("dear_serving.")}
    assert parts == MAY_IMPORT.keys()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dear_serving.ranking.prompts", "from dear_serving.protocol import Engine"),
        ("dear_serving.ranking.prompts", "def f():\n    import torch"),
        ("dear_serving.gateway.caller", "from dear_serving.http.body import validate"),
        ("dear_serving.gateway.caller", "import ray.serve"),
        ("dear_serving.new", "from dear_serving.types import Order"),
        ("dear_client.calls", "import aiohttp"),
        ("dear_tools.files", "from dear_serving.errors import DearError"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1
