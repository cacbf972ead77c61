"""The ``dear`` command as a whole: what it needs installed, how it ends, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dear_serving import __version__
from tests.conftest import CPU_CONFIG, ROOT

pytestmark = pytest.mark.integration

# Runs the command where only some packages can be imported: the standard library, those named, and ours.
WITHOUT = """
import importlib.metadata, json, sys
hidden = set(json.loads(sys.argv[1]))

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
sys.argv = ["dear", *sys.argv[2:]]
from dear_serving.__main__ import main
main()
"""
SERVER = ["vllm", "ray", "torch", "transformers", "fastapi", "starlette", "safetensors", "psutil"]
SERVER += ["sqlalchemy", "alembic", "limits", "cachetools", "fsspec", "tokenizers"]


def dear(*arguments: str, hidden: list[str] | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "dear_serving", *arguments]
    if hidden is not None:
        command = [sys.executable, "-c", WITHOUT, json.dumps(hidden), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEAR_")}
    environment |= {"DEAR_BASE_URL": "http://127.0.0.1:9", "COLUMNS": "120"} | env
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_it_says_its_version_and_what_it_can_do() -> None:
    assert dear("--version").stdout == f"{__version__}\n"
    shown = dear("--help").stdout
    for name in (
        "rerank",
        "load",
        "eval",
        "doctor",
        "serve",
        "demo",
        "merge",
        "plan",
        "tenants",
        "keys",
        "adapters",
        "replicas",
        "audit",
    ):
        assert f" {name} " in shown


@pytest.mark.parametrize("command", ["rerank", "load", "eval", "doctor", "plan", "tenants"])
def test_users_of_a_server_need_none_of_its_packages(command: str) -> None:
    done = dear(command, "--help", hidden=SERVER)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"dear {command}" in done.stdout


def test_without_the_servers_packages_serve_says_where_they_are() -> None:
    done = dear("serve", "--config", str(CPU_CONFIG), hidden=SERVER)
    assert done.returncode == 1
    assert (
        done.stderr
        == "dear: psutil is not installed: pip install dear-serving[cpu], or [gpu], for a server\n"
    )


def test_a_plan_needs_none_of_them_either() -> None:
    done = dear("plan", "--model", str(ROOT / "configs" / "demo" / "base"), "--gpu", "a10g", hidden=SERVER)
    assert (done.returncode, done.stderr) == (0, "")
    assert "words x 1.3, an estimate: transformers is not installed" in done.stdout
    done = dear("plan", "--gpu", "b200", hidden=SERVER)
    assert done.returncode == 1
    assert done.stderr.startswith("dear: --gpu: 'b200' is not known; known are a100-40")


def test_a_plan_works_from_a_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "installed")
    run = "import sys; sys.argv = ['dear', 'plan', '--table']; from dear_serving.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| GPU |")


def test_merging_without_peft_says_how_to_get_it(tmp_path: Path) -> None:
    demo = ROOT / "configs" / "demo"
    done = dear("merge", f"{demo}/adapters/legal", str(tmp_path / "merged"), hidden=["peft"])
    assert done.returncode == 1
    assert done.stderr == "dear: peft is not installed: pip install dear-serving[bench], to merge\n"
    assert not any(tmp_path.iterdir())


def test_with_the_library_alone_the_command_says_where_the_tools_are() -> None:
    done = dear("rerank", "q", "a", hidden=[*SERVER, "typer", "rich", "aiohttp", "numpy", "yaml"])
    assert done.returncode == 1
    assert done.stderr == "dear: typer is not installed: pip install dear-serving[tools]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["rerank", "q", "a"],
            1,
            "dear: no server answers at http://127.0.0.1:9/v2/rerank: connection refused\n",
        ),
        (["load", "--duration", "1s"], 1, "dear: no server answers at http://127.0.0.1:9/v1/models"),
        (["tenants", "list"], 1, "dear: set DEAR_ADMIN_KEY to the key that the server was started with\n"),
        (["audit"], 1, "dear: set DEAR_ADMIN_KEY to the key that the server was started with\n"),
        (
            ["rerank", "q", "a", "--url", "x"],
            1,
            "dear: base_url: 'x' is no URL such as http://127.0.0.1:8000\n",
        ),
        (["eval", "--preset", "none"], 1, "dear: "),
        (["nonsense"], 2, "Usage: "),
    ],
)
def test_it_ends_with_one_sentence_and_a_code(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = dear(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1


def test_shells_complete_its_commands() -> None:
    completing = {"_DEAR_COMPLETE": "complete_bash", "COMP_WORDS": "dear rer", "COMP_CWORD": "1"}
    dear_script = str(Path(sys.executable).with_name("dear"))
    done = subprocess.run([dear_script], env=os.environ | completing, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "rerank\n")
