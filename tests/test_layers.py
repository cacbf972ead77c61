"""The direction of imports: which layer may know which, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"dear_serving": ROOT / "serving", "dear_client": ROOT / "client", "dear_tools": ROOT / "client"}
EVERYTHING = ("dear_serving",)

# What each module may import of dear_serving. The longest name that fits a module decides; a name allows
# what is below it too. ``from dear_serving import __version__`` is open to all.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "types": (),
    "errors": (),
    "settings": ("errors",),
    "metrics": ("types",),
    "supervisor": ("errors",),
    "ranking": ("types", "errors", "engine.protocol", "ranking"),
    "engine": ("types", "errors", "settings", "engine"),
    "engine.server": ("types", "errors", "settings", "metrics", "engine", "adapters", "registry"),
    "engine.tokenizer": ("errors", "ranking.template", "ranking.prompts"),
    "engine.protocol": ("types",),
    "adapters": ("types", "errors", "settings", "ranking", "registry", "adapters"),
    "registry": ("errors", "registry"),
    "tenancy": ("types", "errors", "settings", "registry", "engine.protocol", "tenancy"),
    "api": (
        *("types", "errors", "settings", "metrics", "registry"),
        *("ranking", "adapters", "tenancy", "engine.protocol", "api"),
    ),
    "api.assembly": (
        *("types", "errors", "settings", "metrics", "registry"),
        *("ranking", "adapters", "tenancy", "engine.protocol", "engine.tokenizer", "api"),
    ),
    "api.ingress": ("settings", "api", "engine.handle", "engine.tokenizer"),
    "app": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": ("cli",),
    "runtime": EVERYTHING,
    "demo": ("errors", "settings", "supervisor"),
    "doctor": ("errors", "settings", "adapters.preflight"),
}

# Libraries that only some modules may import.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "ray": ("engine.server", "engine.handle", "engine.routing", "api.ingress", "app", "runtime"),
    "vllm": ("engine.server", "engine.decode", "engine.scheduler", "engine.selfcheck", "engine.cpu_lora"),
    "torch": ("engine.cpu_lora",),
    "transformers": ("engine.tokenizer", "adapters"),
    "fastapi": ("api",),
    "starlette": ("api",),
    "httpx": (),  # dear_client has it
    "sqlalchemy": ("registry", "tenancy.tenants", "adapters.revisions", "adapters.fleet"),
    "fsspec": ("adapters.store", "adapters.intake"),
    "alembic": ("registry",),
    "limits": ("tenancy.budgets",),
}

# What the client may import besides the standard library; its tools import it, and never the server.
CLIENT_IMPORTS = ("dear_client", "httpx", "pydantic")
TOOLS_IMPORT = ("httpx",)  # of the libraries above


def within(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def modules_of(package: str) -> Iterator[tuple[str, str]]:
    """Every module's dotted name and source."""
    folder = SOURCES[package]
    for file in sorted((folder / package).rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), file.read_text(encoding="utf-8")


def imports_of(module: str, source: str) -> Iterator[str]:
    """Everything a module imports, anywhere in it: ``a.b`` of ``import a.b``, ``a.b.c`` of ``from a.b
    import c``, relative and dynamic imports with a fixed name included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield str(name.value)


def rule_of(module: str) -> tuple[str, ...] | None:
    """What ``module`` (without the package) may import, by the longest name in the table."""
    fitting = [name for name in MAY_IMPORT if within(module, (name,))]
    return MAY_IMPORT[max(fitting, key=len)] if fitting else None


def violations(module: str, source: str) -> list[str]:
    """Imports that break the rules, as ``module imports name``."""
    package, _, inner = module.partition(".")
    found = []
    for name in imports_of(module, source):
        library, _, imported = name.partition(".")
        if library == "dear_serving" and package == "dear_serving":
            allowed = rule_of(inner) or ()
            wrong = imported != "__version__" and not (allowed == EVERYTHING or within(imported, allowed))
        elif library == "dear_serving":
            wrong = True
        elif package == "dear_client":
            wrong = library not in CLIENT_IMPORTS and library not in sys.stdlib_module_names
        elif package == "dear_serving":
            wrong = library in ONLY_IN and not within(inner, ONLY_IN[library])
        else:
            wrong = library in ONLY_IN and library not in TOOLS_IMPORT
        if wrong:
            found.append(f"{module} imports {name}")
    return found


ALL = {module: source for package in SOURCES for module, source in modules_of(package)}


@pytest.mark.parametrize("module", ALL)
def test_imports_keep_to_the_layers(module: str) -> None:
    assert violations(module, ALL[module]) == []


@pytest.mark.parametrize(
    ("library", "module"), [(library, module) for library, modules in ONLY_IN.items() for module in modules]
)
def test_no_module_may_import_a_library_that_it_does_without(library: str, module: str) -> None:
    users = [
        name
        for name, source in ALL.items()
        if within(name.removeprefix("dear_serving."), (module,))
        and any(within(imported, (library,)) for imported in imports_of(name, source))
    ]
    assert users, f"take {module} from ONLY_IN[{library!r}]"


@pytest.mark.parametrize("module", [name for name in ALL if name.startswith("dear_serving.")])
def test_every_module_has_a_rule(module: str) -> None:
    inner = module.removeprefix("dear_serving.")
    assert rule_of(inner) is not None, f"add {inner} to MAY_IMPORT"


def test_every_layer_is_read() -> None:
    layers = {"ranking", "engine", "adapters", "tenancy", "api"}
    assert {f"dear_serving.{layer}" for layer in layers} < set(ALL)
    assert {"dear_client", "dear_client.exchange", "dear_tools"} < set(ALL)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dear_serving.gateway.ranker", "import ray"),
        ("dear_serving.gateway.ranker", "import numpy, vllm.lora"),
        ("dear_serving.gateway.ranker", "from fastapi import FastAPI"),
        ("dear_serving.gateway.ranker", "from transformers import AutoTokenizer"),
        ("dear_serving.gateway.ranker", "import httpx"),
        ("dear_serving.gateway.ranker", "def f():\n    from torch import nn"),
        ("dear_serving.gateway.ranker", "if TYPE_CHECKING:\n    import starlette.routing"),
        ("dear_serving.gateway.ranker", "importlib.import_module('ray.serve')"),
        ("dear_serving.gateway.ranker", "from dear_serving.settings import Settings"),
        ("dear_serving.gateway.ranker", "from tests.support.fake_engine import FakeEngine"),
        ("dear_serving.gateway.ranker", "from dear_serving import engine"),
        ("dear_serving.gateway.ranker", "from ..adapters import templates"),
        ("dear_serving.gateway.ranker", "from .. import settings"),
        ("dear_serving.gateway.engine_client", "from dear_serving.http.errors import error_body"),
        ("dear_serving.gateway.engine_client", "from dear_serving.ranking.prompts import Prompt"),
        ("dear_serving.gateway.tokenizer", "from dear_serving.gateway.ranker import Ranker"),
        ("dear_serving.protocol", "import ray"),
        ("dear_serving.protocol", "from dear_serving.inside_vllm.answer_path import walk"),
        ("dear_serving.inside_vllm.answer_path", "import vllm"),
        ("dear_serving.inside_vllm.answer_path", "import ray"),
        ("dear_serving.replica.kv_admission", "from vllm.sampling_params import SamplingParams"),
        ("dear_serving.gateway.engine_client", "from vllm import SamplingParams"),
        ("tests.support.fake_engine", "import vllm"),
        ("dear_serving.inside_vllm.scheduler", "from ray import serve"),
        ("dear_serving.inside_vllm.cpu_lora", "import ray"),
        ("dear_serving.replica.self_check", "import ray"),
        ("dear_serving.replica.window_decoder", "from dear_serving.metrics import EngineMetrics"),
        ("dear_serving.replica.window_decoder", "from dear_serving.ranking.windows import Window"),
        ("dear_serving.replica.server", "from dear_serving.ranking.windows import Window"),
        ("dear_serving.gateway.window_ranker", "from dear_serving.inside_vllm.answer_path import walk"),
        ("dear_serving.gateway.window_ranker", "from dear_serving.replica.window_decoder import Decoder"),
        (
            "dear_serving.ranking.strategies.auto",
            "from dear_serving.gateway.rerank_service import GatewayState",
        ),
        ("dear_serving.ranking.scores", "import torch"),
        ("dear_serving.http.streaming", "from dear_serving.replica.window_decoder import Decoder"),
        ("dear_serving.gateway.rerank_service", "from tests.support.fake_engine import FakeEngine"),
        ("dear_serving.metrics", "from dear_serving.settings import Settings"),
        ("dear_serving.types", "from dear_serving.errors import DearError"),
        ("dear_serving.adapters.preflight", "from dear_serving.protocol import Engine"),
        ("dear_serving.gateway.admission", "from dear_serving.http.errors import error_body"),
        ("dear_serving.http.routes", "from dear_serving.gateway.engine_client import EngineClient"),
        ("dear_serving.http.routes", "from dear_serving.app import build"),
        ("dear_serving.http.routes", "from ray import serve"),
        ("dear_serving.http.ingress", "import vllm"),
        ("dear_serving.app", "import vllm"),
        ("dear_serving.replica.window_decoder", "import ray"),
        ("dear_serving.replica.server", "import torch"),
        ("dear_serving.errors", "from dear_serving.types import Order"),
        ("dear_serving.new", "from dear_serving.types import Order"),
        ("dear_client.calls", "from dear_serving.errors import DearError"),
        ("dear_client.calls", "import dear_serving"),
        ("dear_client.calls", "import ray"),
        ("dear_client.calls", "import aiohttp"),
        ("dear_client.calls", "import typer"),
        ("dear_client.calls", "from dear_tools.files import read_text"),
        ("dear_client.calls", "from ..dear_tools import files"),
        ("dear_client.wire", "def f():\n    import httpcore"),
        ("dear_tools.files", "from dear_serving.errors import DearError"),
        ("dear_tools.load.sender", "import ray"),
        ("dear_tools.load.sender", "def f():\n    from vllm import LLM"),
        ("dear_tools.load.sender", "import torch.nn"),
        ("dear_tools.load.sender", "from fastapi import FastAPI"),
    ],
)
def test_the_checker_catches(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dear_serving.gateway.ranker", "from dear_serving.protocol import Engine"),
        ("dear_serving.gateway.ranker", "from .windows import Strategy"),
        ("dear_serving.gateway.tokenizer", "from dear_serving.ranking.template import Template"),
        ("dear_serving.replica.server", "import vllm\nfrom ray.serve.llm import LLMServer"),
        ("dear_serving.replica.server", "from dear_serving.metrics import EngineMetrics"),
        ("dear_serving.inside_vllm.scheduler", "from vllm.v1.core.sched.scheduler import Scheduler"),
        (
            "dear_serving.replica.self_check",
            "if TYPE_CHECKING:\n    from vllm.lora.request import LoRARequest",
        ),
        (
            "dear_serving.inside_vllm.cpu_lora",
            "import torch\nfrom vllm.v1.worker.cpu_worker import CPUWorker",
        ),
        ("dear_serving.replica.window_decoder", "from dear_serving.inside_vllm.answer_path import walk"),
        ("dear_serving.gateway.window_ranker", "from dear_serving.protocol import PermutationRequest"),
        ("dear_serving.ranking.strategies.auto", "from .cost import cost"),
        ("dear_serving.http.streaming", "from dear_serving.gateway.ranker import Head"),
        ("dear_serving.http.ingress", "from dear_serving.gateway.engine_client import EngineClient"),
        ("dear_serving.http.routes", "from dear_serving import __version__"),
        ("dear_serving.app", "from dear_serving.replica.server import RerankServer"),
        ("dear_serving.gateway.ranker", "import rayon, typesense"),
        ("dear_client.calls", "import httpx, pydantic"),
        ("dear_client.calls", "import json, email.utils\nfrom . import models"),
        ("dear_client.calls", "from dear_client.models import Ranking"),
        ("dear_tools.load.sender", "import aiohttp, typer\nfrom dear_client.calls import Calls"),
        ("dear_tools.load.sender", "from dear_tools.files import read_text"),
    ],
)
def test_the_checker_lets_through(module: str, source: str) -> None:
    assert violations(module, source) == []
