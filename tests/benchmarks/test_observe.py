"""The dashboard's panels as pictures, from a Prometheus that runs here."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.observe import fired, lines_of, pictures, prometheus, rows

PAGE = """
ray_dear_engines{replica="one"} 2
ray_dear_engines_least{replica="one"} 2
ray_dear_tenant_tokens{replica="one",tenant="acme",state="running"} 30
ray_dear_tenant_tokens{replica="two",tenant="beta",state="running"} 10
ray_dear_tenant_weight{replica="one",tenant="acme"} 1
ray_dear_tenant_weight{replica="two",tenant="beta"} 1
"""


class Exporter(BaseHTTPRequestHandler):
    """Ray's metrics port, as far as a Prometheus sees it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        self.wfile.write(PAGE.lstrip().encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Exporter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_every_panel_has_a_row() -> None:
    assert list(rows()) == ["Fleet", "Tenants", "Adapters", "Engine"]
    assert all(panels for panels in rows().values())


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_panels_are_drawn_from_what_prometheus_answers(port: int, tmp_path: Path) -> None:
    begin_s = time.time() - 1
    panels = {panel["title"]: panel for row in rows().values() for panel in row}
    with prometheus(tmp_path, port) as url, httpx.Client(base_url=url) as http:
        ends_s = time.monotonic() + 60
        while True:
            try:
                if lines_of(panels["Engines ready"], http, begin_s, time.time()):
                    break
            except httpx.HTTPError:  # it starts
                pass
            assert time.monotonic() < ends_s, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.5)
        (line,) = lines_of(panels["Engines ready"], http, begin_s, time.time())
        assert set(line.values) == {2.0}
        saturation = panels["Saturation: share of the engines over share by weight"]
        shares = {line.legend: line.values[-1] for line in lines_of(saturation, http, begin_s, time.time())}
        assert shares == {"acme": 1.5, "beta": 0.5}
        empty = pictures(url, begin_s, time.time(), tmp_path)
        assert fired(url) == []
    assert "Fleet: Engines ready" not in empty
    assert "Engine: KV cache in use" in empty
    for row in rows():
        assert (tmp_path / f"{row.lower()}.png").read_bytes().startswith(b"\x89PNG")
