"""serving/OPERATIONS.md: what can run here is run, the rest names files, objects and options that exist."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer.main
from typer.testing import CliRunner

from dear_client import Client
from dear_serving.adapters.configured import register_configured
from dear_serving.adapters.preflight import digest
from dear_serving.adapters.store import Store
from dear_serving.cli.main import app
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.registry.database import open_database
from dear_serving.settings import RegistrySettings, Settings
from dear_serving.tenancy.tenants import Limits, Tenants
from dear_tools.admin import ask
from tests.conftest import CPU_CONFIG, LEGAL, ROOT, InProcess, client_of, settings_in
from tests.deploy.manifests import groups, new_secrets, of_kind, overlay, ray_service
from tests.support.fake_engine import FakeEngine
from tests.support.postgres import new_postgres_database

PAGE = (ROOT / "serving" / "OPERATIONS.md").read_text(encoding="utf-8")
BACK_UP = PAGE.partition("\n## Back up and restore\n")[2].partition("\n## ")[0]


def blocks(text: str = PAGE) -> list[str]:
    """The shell commands of a text, a block each."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(word: str, text: str = PAGE) -> list[list[str]]:
    """The command lines that begin with a word, environment variables before it left out."""
    lines = (line for block in blocks(text) for line in block.splitlines())
    split = (shlex.split(line, comments=True) for line in lines)
    found = ([*_without_assignments(line)] for line in split)
    return [line for line in found if line[:1] == [word]]


def _without_assignments(line: list[str]) -> list[str]:
    while line and re.fullmatch(r"[A-Z_]+=.*", line[0], re.DOTALL):
        line = line[1:]
    return line


def the_block(beginning: str) -> str:
    """The one block of the section on backups that begins so."""
    (found,) = (block for block in blocks(BACK_UP) if block.startswith(beginning))
    return found


# The way to a ranked list.


def test_six_commands_lead_to_a_ranked_list() -> None:
    section = PAGE.partition("\n## Deploy\n")[2]
    lines = blocks(section)[0].splitlines()
    assert len(lines) <= 6
    assert "Then six commands" in section
    assert lines[0].startswith("docker build")
    assert " dear rerank " in lines[-1]


# Backups.


@dataclass(frozen=True, slots=True)
class Kept:
    """What a registry had when it was backed up."""

    key: str
    settings: Settings


def run(block: str, folder: Path, **environment: str) -> None:
    """A block as it stands in the page, in a folder."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    } | environment
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def fill(settings: Settings) -> Kept:
    """A registry with a tenant, its key, a grant, and the default's adapters."""
    register_configured(settings)
    database = open_database(settings.registry.url)
    tenants = Tenants(database)
    tenants.create("acme", weight=2.0, limits=Limits(requests_per_minute=7), actor="test")
    key = tenants.create_key("acme", actor="test").text
    database.close()
    return Kept(key, settings)


def change(kept: Kept) -> None:
    """What happens after the backup and is undone by restoring it."""
    database = open_database(kept.settings.registry.url)
    tenants = Tenants(database)
    tenants.create("late", weight=1.0, limits=Limits(), actor="test")
    database.close()


async def check(kept: Kept, settings: Settings, tokenizer: BaseTokenizer, engine: FakeEngine) -> None:
    """Tenants, keys and adapters work on what was restored, in a gateway that starts on it."""
    assert settings.model.source is not None
    state = build_gateway(settings, engine, tokenizer, settings.model.source)
    try:
        await state.catalog.refresh()
        tenants = {one.id: one for one in state.tenants.list()}
        assert "late" not in tenants
        assert (tenants["acme"].weight, tenants["acme"].limits.requests_per_minute) == (2.0, 7)
        body = {"model": "legal", "query": "q", "documents": ["a", "b"]}
        async with client_of(state) as http:
            ranked = await http.post("/v2/rerank", json=body, headers={"authorization": f"Bearer {kept.key}"})
            assert ranked.status_code == 200, ranked.text
            assert ranked.json()["meta"]["dear"]["revision"] == LEGAL
            assert ranked.headers["x-ratelimit-limit-requests"] == "7"
            other = {"authorization": f"Bearer {kept.key[:-1]}{'a' if kept.key[-1] != 'a' else 'b'}"}
            assert (await http.post("/v2/rerank", json=body, headers=other)).status_code == 401
        (revision,) = state.lifecycle.adapters.get("legal").revisions
        assert (
            digest(Store(settings.adapters.store).fetch(revision.digest, settings.adapters.cache))
            == revision.digest
        )
    finally:
        state.close()
        state.database.close()


@pytest.fixture
def sqlite(tmp_path: Path, settings: Settings) -> Settings:
    """A server in a folder, with its registry where a server has it by default."""
    (tmp_path / ".dear").mkdir()
    own = settings_in(tmp_path, settings)
    registry = RegistrySettings(url=f"sqlite:///{tmp_path / '.dear' / 'registry.db'}")
    return own.model_copy(update={"registry": registry})


@pytest.mark.integration
async def test_sqlite_is_backed_up_while_it_is_used_and_restored(
    sqlite: Settings, tmp_path: Path, tokenizer: BaseTokenizer, engine: FakeEngine
) -> None:
    kept = fill(sqlite)
    in_use = open_database(sqlite.registry.url)
    with in_use.reading():
        run(the_block("python3 -c"), tmp_path)
    in_use.close()
    change(kept)
    run(the_block("rm -f .dear"), tmp_path)
    await check(kept, sqlite, tokenizer, engine)
    assert (tmp_path / ".dear" / "registry.db").stat().st_mode & 0o077 == 0


@pytest.fixture
def on_postgres(tmp_path: Path, settings: Settings, postgres_folder: str) -> Settings:
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed (apt-get install postgresql-client)")
    own = settings_in(tmp_path, settings)
    return own.model_copy(update={"registry": RegistrySettings(url=new_postgres_database(postgres_folder))})


def libpq(settings: Settings) -> str:
    """The address as pg_dump takes it."""
    return settings.registry.url.replace("postgresql+psycopg://", "postgresql://")


@pytest.mark.integration
async def test_postgresql_is_restored_over_what_is_there_and_into_an_empty_database(
    on_postgres: Settings, postgres_folder: str, tmp_path: Path, tokenizer: BaseTokenizer, engine: FakeEngine
) -> None:
    kept = fill(on_postgres)
    run(the_block("pg_dump"), tmp_path, DATABASE=libpq(on_postgres))
    change(kept)
    run(the_block("pg_restore"), tmp_path, DATABASE=libpq(on_postgres))
    await check(kept, on_postgres, tokenizer, engine)
    empty = on_postgres.model_copy(
        update={"registry": RegistrySettings(url=new_postgres_database(postgres_folder), migrate="never")}
    )
    run(the_block("pg_restore"), tmp_path, DATABASE=libpq(empty))
    await check(kept, empty, tokenizer, engine)


@pytest.mark.integration
def test_a_dump_that_is_cut_off_restores_nothing(on_postgres: Settings, tmp_path: Path) -> None:
    kept = fill(on_postgres)
    run(the_block("pg_dump"), tmp_path, DATABASE=libpq(on_postgres))
    change(kept)
    dump = (tmp_path / "dear.dump").read_bytes()
    (tmp_path / "dear.dump").write_bytes(dump[: len(dump) * 3 // 4])
    with pytest.raises(AssertionError):
        run(the_block("pg_restore"), tmp_path, DATABASE=libpq(on_postgres))
    with psycopg.connect(libpq(on_postgres)) as connection:
        found = connection.execute("SELECT id FROM tenants ORDER BY id").fetchall()
    assert ("late",) in found


# The dear command.


def parsed(arguments: list[str]) -> None:
    """Parse a command line of ``dear``, groups and all; what is wrong with it is raised."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("dear", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_every_dear_command_has_that_form() -> None:
    lines = commands("dear")
    in_pods = [
        shlex.split(line)[1:]
        for line in re.findall(r"DEAR_API_KEY=\$DEAR_API_KEYS (dear [^']+)'", "".join(blocks()))
    ]
    assert len(lines) >= 9
    assert len(in_pods) == 1
    for arguments in [*(line[1:] for line in lines), *in_pods]:
        parsed(arguments)
    with pytest.raises(Exception, match="No such option"):
        parsed(["keys", "rotate", "x", "--ovrlap-s", "3"])


@pytest.fixture
def administrator(with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands reach the routes of this process."""
    monkeypatch.setenv("DEAR_ADMIN_KEY", "root")
    monkeypatch.delenv("DEAR_BASE_URL", raising=False)
    monkeypatch.setattr(ask, "Client", partial(Client, transport=InProcess(with_tenants)))
    yield


def test_tenants_and_keys_are_made_and_rotated_as_it_says(administrator: None) -> None:
    section = PAGE.partition("\n### Administer\n")[2].partition("\n## Scale\n")[0]
    rotation = PAGE.partition("\n## Rotate keys\n")[2].partition("\n## ")[0]
    id_ = ""
    for line in [*commands("dear", section), *commands("dear", rotation)]:
        arguments = [id_ if part == "KEY_ID" else part for part in line[1:]]
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert done.exit_code == 0, (line, done.output)
        if line[1:3] == ["keys", "list"]:
            (id_,) = re.findall(r"\b[0-9a-f]{8,}\b", done.output)[:1]
    assert id_


def test_migrations_are_made_and_looked_at_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAR_REGISTRY_URL", f"sqlite:///{tmp_path / 'registry.db'}")
    monkeypatch.chdir(ROOT)
    migrate, look = (line[1:] for line in commands("dear") if line[1] == "migrate")
    assert look == [*migrate, "--check"]
    assert migrate[1:] == ["--config", str(CPU_CONFIG.relative_to(ROOT))]
    before = CliRunner().invoke(app, look)
    assert "run dear migrate" in str(before.exception)
    assert CliRunner().invoke(app, migrate).exit_code == 0
    after = CliRunner().invoke(app, look)
    assert (after.exit_code, after.output) == (0, "registry: this release can use the tables\n")


# kubectl, helm and docker, which nothing here answers.

VERBS = {
    "apply",
    "delete",
    "describe",
    "drain",
    "edit",
    "exec",
    "get",
    "label",
    "logs",
    "patch",
    "port-forward",
    "wait",
}


def test_kubectl_lines_name_files_and_objects_that_there_are() -> None:
    manifests = overlay("one-a100-node")
    names = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in [*manifests, *new_secrets()]}
    names |= {"svc/dear-admin", "svc/dear-head-svc"}  # the second is KubeRay's
    assert of_kind(manifests, "Service")
    lines = commands("kubectl")
    assert len(lines) > 15
    for line in (one[: one.index("--")] if "--" in one else one for one in lines):
        assert next(part for part in line[1:] if part in VERBS)
        for option, value in itertools.pairwise(line):
            if option in {"-k", "-f"} and value != "-":
                assert (ROOT / value / "kustomization.yaml").is_file(), line
            if option == "-c":
                assert value in {c["name"] for c in _containers(manifests)}, line
            if option in {"rayservice", "job", "secret"}:
                assert f"{option}/{value}" in names, line
            if option == "-l" and "ray.io/group" in value:
                assert value.partition("=")[2] in groups(ray_service(manifests)), line
        for part in line:
            if re.fullmatch(r"(rayservice|job|svc|secret)/[\w-]+", part):
                assert part in names, line


def _containers(manifests: list[dict[str, object]]) -> Iterator[dict[str, str]]:
    from tests.deploy.manifests import containers, pods

    for _, pod, _ in pods(manifests):
        yield from containers(pod)


def test_other_programs_are_given_files_that_there_are() -> None:
    for block in blocks():
        for named in re.findall(r"(?<![\w./])configs/[\w/.-]+", block):
            assert (ROOT / named).exists(), named
    (build,) = commands("docker")
    assert build[build.index("--target") + 1] in {"cpu", "gpu"}
    image = build[build.index("-t") + 1]
    used = {container["image"] for container in _containers(overlay("one-a100-node"))}
    assert image in used


def test_the_admin_keys_variable_is_read_from_where_the_secret_has_it() -> None:
    (line,) = re.findall(r"^export DEAR_ADMIN_KEY=.*$", PAGE, re.MULTILINE)
    _, secret, _ = new_secrets()
    (key,) = re.findall(r"\.data\.(\w+)", line)
    assert key in secret["stringData"]
