"""The locustfile, run as its users do: without Locust's page, for a few seconds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client_overhead import trivial_server
from tests.conftest import ROOT
from tests.e2e.conftest import Server
from tests.tools.load.servers import Asked, always, ranking, ranks, refusal, scripted

pytestmark = pytest.mark.integration

KEY = "dear_0123456789ab_a-very-secret-key"


@pytest.fixture
def locust(clients_python: Path) -> Path:
    """Locust's command."""
    return clients_python.with_name("locust")


def ran(
    locust: Path, url: str, *, seconds: int = 3, **environment: str
) -> tuple[int, str, list[dict[str, Any]]]:
    """The exit code, what was said, and the figures by name, of four users."""
    command = [str(locust), "-f", str(ROOT / "benchmarks" / "locustfile.py"), "--host", url, "--headless"]
    done = subprocess.run(
        [*command, "--users", "4", "--spawn-rate", "4", "--run-time", f"{seconds}s", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith("DEAR_")} | environment,
    )
    figures: list[dict[str, Any]] = json.loads(done.stdout)
    return done.returncode, done.stderr, figures


def test_users_rank_lists_and_orders_are_checked(locust: Path) -> None:
    with trivial_server() as url:
        code, said, figures = ran(locust, url)
    assert code == 0, said
    (one,) = figures
    assert one["name"] == "/v2/rerank"
    assert one["num_requests"] > 20
    assert one["num_failures"] == 0


def test_the_first_model_is_the_most_popular(locust: Path) -> None:
    with trivial_server() as url:
        code, said, figures = ran(locust, url, DEAR_LOAD_MODELS="legal, medical")
    assert code == 0, said
    counts = {one["name"]: one["num_requests"] for one in figures}
    assert counts["/v2/rerank legal"] > counts["/v2/rerank medical"] > 0


@pytest.mark.e2e
def test_a_real_server_ranks_for_them(locust: Path, server: Server) -> None:
    code, said, figures = ran(locust, server.url, seconds=1, DEAR_LOAD_MODELS="legal, medical")
    assert code == 0, said
    assert {one["name"] for one in figures} <= {"/v2/rerank legal", "/v2/rerank medical"}


def test_an_invalid_order_is_a_failure(locust: Path) -> None:
    with scripted(always(ranking([0] * 20))) as served:
        code, said, figures = ran(locust, served.url, seconds=1)
    assert code == 1
    assert figures[0]["num_failures"] == figures[0]["num_requests"] > 0
    assert "POST /v2/rerank: invalid order" in said


def test_a_refusal_is_a_failure_of_its_own_and_its_retry_after_is_waited_for(locust: Path) -> None:
    async def refuses(asked: Asked) -> bytes:
        first = len(served.rankings) <= 4
        return refusal(retry_after="1.5") if first else await ranks(asked)

    with scripted(refuses) as served:
        code, said, figures = ran(locust, served.url, DEAR_API_KEY=KEY)
    assert code == 1
    assert figures[0]["num_failures"] == 4
    assert "POST /v2/rerank: refused (429)" in said
    fifth = served.rankings[4]
    assert fifth.at_s - served.rankings[0].at_s >= 1.5
    assert len({str(asked.body) for asked in served.rankings}) == len(served.rankings) > 8
    assert {asked.headers["authorization"] for asked in served.rankings} == {f"Bearer {KEY}"}
    assert KEY not in said


def test_what_the_server_says_of_a_failure_is_what_locust_shows(locust: Path) -> None:
    async def unknown(asked: Asked) -> bytes:
        return refusal(404).replace(b"too much work ahead", b"there is no model x")

    with scripted(unknown) as served:
        code, said, _ = ran(locust, served.url, seconds=1)
    assert code == 1
    assert "POST /v2/rerank: there is no model x" in said
