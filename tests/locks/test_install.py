"""Set-up: quick when nothing changed, from nothing when it was interrupted."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up script on environments in ``tmp_path``, with pip replaced by a list of its calls."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "configs" / "locks" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "CLIENTS_VENV", tmp_path / ".venv-clients")
    module.calls = []
    monkeypatch.setattr(module, "pip_install", lambda venv, *rest: module.calls.append(venv.name))
    monkeypatch.setattr(module.subprocess, "run", lambda command, **options: Path(command[-1]).mkdir())
    return module


@pytest.mark.parametrize(
    ("set_up", "calls"), [("set_up", [".venv"] * 3), ("set_up_clients", [".venv-clients"])]
)
def test_the_second_run_does_nothing(install: ModuleType, set_up: str, calls: list[str]) -> None:
    getattr(install, set_up)()
    assert install.calls == calls
    getattr(install, set_up)()
    assert install.calls == calls


def test_one_environment_is_no_other(install: ModuleType) -> None:
    install.set_up_clients()
    assert not install.VENV.exists()
    install.set_up()
    assert install.is_current(install.CLIENTS_VENV, install.wanted_stamp("clients.txt"))


def test_an_interrupted_set_up_starts_over_from_an_empty_folder(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
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


@pytest.mark.parametrize(("set_up", "lock"), [("set_up", "dev.txt"), ("set_up_clients", "clients.txt")])
def test_a_changed_lock_sets_up_again(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_up: str, lock: str
) -> None:
    getattr(install, set_up)()
    before = list(install.calls)
    for name in ("torch-cpu.txt", "dev.txt", "clients.txt"):
        (tmp_path / name).write_bytes((ROOT / "configs" / "locks" / name).read_bytes())
    monkeypatch.setattr(install, "LOCKS", tmp_path)
    getattr(install, set_up)()
    assert install.calls == before
    with (tmp_path / lock).open("a") as changed:
        changed.write("# changed\n")
    getattr(install, set_up)()
    assert install.calls == before * 2


def test_a_change_of_what_the_project_needs_sets_up_again(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.set_up()
    monkeypatch.setattr(install, "project_metadata", lambda: "other dependencies")
    install.set_up()
    assert len(install.calls) == 6


def test_an_unsupported_python_is_named(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SUPPORTED", ((3, 99),))
    for set_up in (install.set_up, install.set_up_clients):
        with pytest.raises(
            install.SetupError, match=rf"this is {sys.version_info[0]}\.{sys.version_info[1]}"
        ):
            set_up()


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "dev.txt", "clients.txt", "audit.txt", "build.txt"])
def test_every_locked_package_is_pinned_with_hashes(install: ModuleType, name: str) -> None:
    lock = ROOT / "configs" / "locks" / name
    assert install.count_packages(lock) > {"audit.txt": 20, "build.txt": 4}.get(name, 100)
    lines = lock.read_text().splitlines()
    pinned = [number for number, line in enumerate(lines) if line[:1].isalnum()]
    assert all("==" in lines[number] and "--hash=sha256:" in lines[number + 1] for number in pinned)
    assert not any("://" in line for line in lines)


def test_torch_is_pinned_with_a_hash_wherever_its_wheel_is_known() -> None:
    """PyTorch's index publishes none of Python 3.12's wheel that could be checked here: its line says so."""
    lock = (ROOT / "configs" / "locks" / "torch-cpu.txt").read_text()
    lines = [line for line in lock.replace("\\\n", "").splitlines() if line.startswith("torch==")]
    without = [line for line in lines if "--hash=sha256:" not in line]
    assert without == ['torch==2.13.0+cpu ; python_version >= "3.12"']
    assert len(lines) == 2


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="its wheel's hash is not in the lock")
def test_pip_refuses_a_torch_of_another_hash(tmp_path: Path) -> None:
    """As it is run: the lock itself brings pip into the mode in which it checks hashes."""
    wheel = tmp_path / "torch-2.13.0+cpu-cp311-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("torch-2.13.0+cpu.dist-info/METADATA", "Name: torch\nVersion: 2.13.0+cpu\n")
        made.writestr("torch-2.13.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        made.writestr("torch-2.13.0+cpu.dist-info/RECORD", "")
    lock = (ROOT / "configs" / "locks" / "torch-cpu.txt").read_text()
    own = tmp_path / "torch-cpu.txt"
    own.write_text(lock.partition("\n")[2])  # without the index
    command = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", "--no-index"]
    command += ["--find-links", str(tmp_path), "--dest", str(tmp_path / "got"), "-r", str(own)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_cpu_locks_bring_no_cuda(install: ModuleType) -> None:
    for name in ("cpu.txt", "dev.txt"):
        packages = {
            line.split("==")[0] for line in (ROOT / "configs" / "locks" / name).read_text().splitlines()
        }
        assert not {package for package in packages if package.startswith(("nvidia", "torch", "triton"))}


def test_the_clients_lock_brings_no_engine() -> None:
    lock = (ROOT / "configs" / "locks" / "clients.txt").read_text()
    packages = {line.split("==")[0] for line in lock.splitlines()}
    assert {"openai", "cohere", "litellm"} <= packages
    assert not {package for package in packages if package.startswith(("nvidia", "torch", "vllm", "ray"))}
