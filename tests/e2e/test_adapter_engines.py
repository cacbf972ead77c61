"""Several engines, on a server of their own."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import yaml

from tests.e2e.conftest import ADMIN_KEY, Admin, Server, order_of

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_two_engines_take_every_revision_and_answer_alike(config: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(config.read_text())
    data["adapters"] |= {"root": str(config.parent / "adapters"), "serve": data["adapters"]["serve"][:2]}
    data["engine"]["replicas"] = 2
    data["ranking"] = {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    server = Server(tmp_path / "config.yaml", tmp_path / "output.log", {"DEAR_ADMIN_KEY": ADMIN_KEY})
    with server:
        admin = Admin(server.url)
        with admin.http, httpx.Client(base_url=server.url, timeout=60) as http:
            for source in ("legal", "medical"):
                revision = admin.register("both", source, activate=True).json()
                assert revision["state"] == "active"
                (active,) = (
                    one
                    for one in admin.http.get("/adapters/both").json()["revisions"]
                    if one["id"] == revision["id"]
                )
                assert sorted(active["replicas"].values()) == ["held", "held"]
                assert {order_of(http, "both") for _ in range(20)} == {order_of(http, source)}
            # Many windows of one request, several of them at once on either engine.
            passages = [f"parking permit {number}" for number in range(60)]
            body = {"model": "both", "query": "parking permit", "documents": passages}
            orders = [
                http.post("/v2/rerank", json=body | {"dear": {"strategy": "joint"}}).json()["results"]
                for _ in range(2)
            ]
            assert orders[0] == orders[1]
        server.check_stop()
