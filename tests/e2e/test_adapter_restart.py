"""Several engines, and a server that is killed: before the suite's own server starts, for memory and time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tests.e2e.conftest import ADMIN_KEY, Admin, Server, order_of, running

pytestmark = pytest.mark.e2e


def test_two_engines_take_every_revision_and_a_killed_server_forgets_none(
    config: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load(config.read_text())
    data["adapters"] |= {"root": str(config.parent / "adapters"), "serve": data["adapters"]["serve"][:2]}
    data["engine"]["replicas"] = 2
    data["ranking"] = {}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(data))
    data["engine"]["replicas"] = 1
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(data))
    registry = {"DEAR_ADMIN_KEY": ADMIN_KEY, "DEAR_REGISTRY_URL": f"sqlite:///{tmp_path / 'registry.db'}"}

    @contextlib.contextmanager
    def start(name: str) -> Iterator[tuple[Server, Admin, httpx.Client]]:
        server = Server(tmp_path / f"{name}.log", tmp_path / f"{name}.yaml", registry)
        admin = Admin(server.url)
        try:
            server.wait_until_ready()
            with admin.http, httpx.Client(base_url=server.url, timeout=60) as http:
                yield server, admin, http
        finally:
            if server.process.poll() is None:
                server.process.kill()

    with start("two") as (server, admin, http):
        admin.register("kept", "legal", activate=True)
        swapped = admin.register("kept", "medical", activate=True).json()
        assert swapped["state"] == "active"
        described = admin.http.get("/adapters/kept").json()
        assert sorted(described["revisions"][0]["replicas"].values()) == ["held", "held"]
        wanted = order_of(http, "kept")
        assert {order_of(http, "kept") for _ in range(20)} == {wanted} == {order_of(http, "medical")}
        started = server.descendants()
        server.process.kill()
        gone_s = time.monotonic() + 30
        while running(started) and time.monotonic() < gone_s:
            time.sleep(0.2)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with start("one") as (server, admin, http):
        assert admin.http.get("/adapters/kept").json()["active"] == swapped["id"]
        assert order_of(http, "kept") == wanted
        admin.do("kept", "rollback")
        assert order_of(http, "kept") == order_of(http, "legal") != wanted
        assert server.stop() < 20
