"""Set-up: quick when nothing changed, from nothing when it was interrupted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up script on an environment in ``tmp_path``, with pip replaced by a list of its calls."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "configs" / "locks" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    monkeypatch.setattr(module, "VENV", venv)
    monkeypatch.setattr(module, "STAMP", venv / "installed.sha256")
    module.calls = []
    monkeypatch.setattr(module, "pip_install", lambda what, *rest: module.calls.append(what))
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: venv.mkdir())
    return module


def test_the_second_run_does_nothing(install: ModuleType) -> None:
    install.set_up()
    assert len(install.calls) == 3
    install.set_up()
    assert len(install.calls) == 3


def test_an_interrupted_set_up_starts_over_from_an_empty_folder(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(what: str, *rest: object) -> None:
        (install.VENV / "half-installed").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(install, "pip_install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            install.set_up()
    assert (install.VENV / "half-installed").exists()
    install.set_up()
    assert len(install.calls) == 3
    assert not (install.VENV / "half-installed").exists()


def test_a_changed_lock_sets_up_again(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.set_up()
    before = install.wanted_stamp()
    for name in ("torch-cpu.txt", "dev.txt"):
        (tmp_path / name).write_bytes((ROOT / "configs" / "locks" / name).read_bytes())
    with (tmp_path / "dev.txt").open("a") as lock:
        lock.write("# changed\n")
    monkeypatch.setattr(install, "LOCKS", tmp_path)
    assert install.wanted_stamp() != before
    assert not install.is_current(install.wanted_stamp())


def test_an_unsupported_python_is_named(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SUPPORTED", ((3, 99),))
    with pytest.raises(install.SetupError, match=rf"this is {sys.version_info[0]}\.{sys.version_info[1]}"):
        install.set_up()


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "dev.txt"])
def test_every_locked_package_is_pinned_with_hashes(install: ModuleType, name: str) -> None:
    lock = ROOT / "configs" / "locks" / name
    assert install.count_packages(lock) > 100
    lines = lock.read_text().splitlines()
    pinned = [number for number, line in enumerate(lines) if line[:1].isalnum()]
    assert all("==" in lines[number] and "--hash=sha256:" in lines[number + 1] for number in pinned)
    assert not any("://" in line for line in lines)


def test_the_cpu_locks_bring_no_cuda(install: ModuleType) -> None:
    for name in ("cpu.txt", "dev.txt"):
        packages = {
            line.split("==")[0] for line in (ROOT / "configs" / "locks" / name).read_text().splitlines()
        }
        assert not {package for package in packages if package.startswith(("nvidia", "torch", "triton"))}
