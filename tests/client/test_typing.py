"""What a type checker and ``help`` make of the clients."""

from __future__ import annotations

import os
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import dear_client
from dear_client.calls import Calls
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

GOOD = """
from collections.abc import Iterator
from typing import assert_type

from dear_client import (
    Adapter, AsyncClient, Change, Client, ClientError, Key, Model, RankedDocument, Ranking, Replica,
    RerankRequest, Revision, Tenant,
)

requests: list[RerankRequest] = [{"query": "q", "documents": ["a"], "top_n": 1, "model": "legal"}]

def blocking(client: Client) -> None:
    assert_type(client.rerank("q", ["a", {"text": "b"}], top_n=1, strategy="sliding"), Ranking)
    assert_type(client.rerank(query="q", documents=["a"]), Ranking)
    assert_type(client.models(), list[Model])
    assert_type(client.health(), None)
    assert_type(client.rerank_many(requests), list[Ranking | ClientError])
    for one in client.rerank_iter(iter(requests), concurrency=4, progress=lambda told: print(told.done)):
        assert_type(one, Ranking | ClientError)
    with client.stream("q", ["a"], deadline_s=2) as stream:
        for rank in stream:
            assert_type(rank, RankedDocument)
        assert_type(stream.ranking, Ranking)
    admin = client.admin
    assert_type(admin.tenants(), list[Tenant])
    assert_type(admin.create_tenant("acme", weight=2.0, requests_per_minute=None), Tenant)
    assert_type(admin.delete_tenant("acme"), None)
    assert_type(admin.create_key("acme", label="laptop", expires_in_s=60), Key)
    assert_type(admin.register_adapter("a", "b", activate=True, tenants=["acme"]), Revision)
    assert_type(admin.retire_adapter("a"), Adapter)
    assert_type(admin.audit(5), list[Change])
    assert_type(admin.replicas(), list[Replica])

async def on_asyncio(client: AsyncClient) -> None:
    assert_type(await client.rerank("q", ["a"], scoring="generate"), Ranking)
    assert_type(await client.ready(), None)
    assert_type(await client.rerank_many(requests), list[Ranking | ClientError])
    async for one in client.rerank_iter(requests):
        assert_type(one, Ranking | ClientError)
    async with client.stream("q", ["a"]) as stream:
        async for rank in stream:
            assert_type(rank, RankedDocument)
        assert_type(stream.ranking, Ranking)
    assert_type(await client.admin.tenant("acme"), Tenant)
    assert_type(await client.admin.activate_adapter("a", "b"), Revision)
"""

WRONG = """
from dear_client import AsyncClient, Client, RerankRequest

def blocking(client: Client) -> None:
    client.rerank("q", ["a"], topn=1)
    client.rerank("q", ["a"], strategy="magic")
    client.rerank("q", 5)
    client.rerank("q")
    client.rerank_many([{"query": "q"}])
    client.admin.create_tenant("acme", colour="red")
    client.admin.create_key()
    with client.stream("q", ["a"], top="1"):
        pass

async def on_asyncio(client: AsyncClient) -> None:
    await client.rerank("q", ["a"], topn=1)
    client.rerank("q", ["a"]).order
    await client.admin.set_tenant("acme", weight="2")
"""


def mypy(folder: Path, **programs: str) -> list[str]:
    """What mypy --strict finds in programs of a user of the package."""
    for name, text in programs.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-pretty",
            "--hide-error-context",
            *sorted(programs_of(folder)),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ
        | {"MYPYPATH": str(ROOT / "client"), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "client")},
        timeout=280,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def programs_of(folder: Path) -> list[str]:
    return [str(path.name) for path in folder.glob("*.py")]


def test_types_are_as_they_are_documented_and_wrong_calls_are_refused(tmp_path: Path) -> None:
    found = mypy(tmp_path, good=GOOD, wrong=WRONG)
    assert [line for line in found if line.startswith("good.py")] == []
    refused = {int(line.split(":")[1]) for line in found}
    wrong = WRONG.splitlines()
    expected = {
        number for number, line in enumerate(wrong, 1) if line.startswith("    ") and line.strip() != "pass"
    }
    assert refused == expected, found


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(dear_client.__file__).parent / "py.typed").is_file()


def test_help_has_the_words_of_the_call() -> None:
    from dear_client import AsyncClient, Client

    for kind in (Client, AsyncClient):
        shown = pydoc.plain(pydoc.render_doc(kind.rerank))
        assert "query: 'str', documents: 'Sequence[Document]', **options: 'Unpack[RerankOptions]'" in shown
        for line in (Calls.rerank.__doc__ or "").strip().splitlines():
            assert line.strip() in shown
