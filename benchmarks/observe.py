"""The server with a Prometheus, two minutes of mixed load, and the dashboard's panels as pictures.

Run it with: make observe; python -m benchmarks.observe --minutes 2 --out dist/observe

Needs Prometheus (Debian: apt-get install prometheus). ``dear serve`` with two gateways and one engine on the
tiny model; the load of benchmarks.soak, and beside it two tenants with weights 3 and 1 that ask without a
pause. Prometheus scrapes Ray's metrics port and evaluates configs/observability/alerts.yaml. Each row of
configs/observability/dashboard.json becomes a picture, drawn from the answers of Prometheus to the panels'
own expressions. Prints the alerts that fire, and the panels that have no data. With ``--keep`` all stays up
for a Grafana until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from benchmarks.plots import COLOURS, panels, save
from benchmarks.server import CPU_CONFIG, ROOT, Server
from benchmarks.soak import Load
from benchmarks.workloads import Lists
from dear_client import AsyncClient, Client, ClientError
from dear_serving.process.background import free_port

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = ROOT / "configs" / "observability"
TENANTS = {"acme": 3.0, "beta": 1.0}
_ADMIN_KEY = "soak"  # as in benchmarks.soak
_SCRAPE_S = 5
_STEP_S = 5
_LATE_S = 20.0  # until what was counted last is in Prometheus
_WINDOW = "1m"  # Grafana's $__rate_interval where scrapes are 15 s apart
_MOST_LINES = 12


def server_config(folder: Path, metrics_port: int) -> Path:
    """The CPU default with two gateways, and Ray's export at a known port."""
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text(encoding="utf-8"))
    config["model"]["source"] = str(ROOT / "configs" / "demo" / "base")
    config["adapters"]["root"] = str(ROOT / "configs" / "demo" / "adapters")
    config["gateway"] = {"replicas": 2, "cpus": 0}
    config["http"] = {"metrics_port": metrics_port}
    path = folder / "server.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def prometheus(folder: Path, metrics_port: int) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the port and knows the alerts."""
    config = {
        "global": {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": f"{_SCRAPE_S}s"},
        "rule_files": [str(FILES / "alerts.yaml")],
        "scrape_configs": [
            {"job_name": "dear", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address, data = f"127.0.0.1:{free_port()}", folder / "prometheus"
    shutil.rmtree(data, ignore_errors=True)
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={data}"]
    with (folder / "prometheus.log").open("wb") as log:
        running = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        running.terminate()
        running.wait(30)


async def load(url: str, seconds: float) -> None:
    """The mixed load, and the two tenants."""
    with Client(url, admin_key=_ADMIN_KEY) as client:
        keys = {}
        for name, weight in TENANTS.items():
            client.admin.create_tenant(name, weight=weight)
            keys[name] = client.admin.create_key(name).key or ""
    lists = Lists(1)

    async def tenant(key: str, model: str) -> None:
        async with AsyncClient(url, key) as client:
            while True:
                one = lists.new(10)
                with contextlib.suppress(ClientError):
                    await client.rerank(one.query, list(one.passages), model=model)

    callers = [
        asyncio.create_task(tenant(key, model))
        for key, model in zip(keys.values(), ("legal", "medical"), strict=True)
        for _ in range(3)
    ]
    try:
        await Load(url).run(seconds)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Line:
    """A series of a panel: seconds since the epoch, and values."""

    legend: str
    at_s: list[float]
    values: list[float]


def lines_of(panel: dict[str, Any], http: httpx.Client, begin_s: float, end_s: float) -> list[Line]:
    """What Prometheus answers to a panel's expressions."""
    found = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", _WINDOW)
        asked = {"query": expression, "start": begin_s, "end": end_s, "step": _STEP_S}
        reply = http.get("/api/v1/query_range", params=asked).raise_for_status().json()
        for series in reply["data"]["result"]:
            legend = target["legendFormat"]
            for name in re.findall(r"{{(\w+)}}", legend):
                legend = legend.replace(f"{{{{{name}}}}}", series["metric"].get(name, ""))
            points = [(at_s, float(value)) for at_s, value in series["values"] if value != "NaN"]
            if points:
                found.append(Line(legend, [at_s for at_s, _ in points], [value for _, value in points]))
    return found


def draw(panel: dict[str, Any], lines: list[Line], axes: Axes, begin_s: float, end_s: float) -> None:
    """One panel, over the time from the first to the second."""
    axes.set_title(panel["title"], fontsize=10)
    if panel["type"] == "stat":
        axes.axis("off")
        text = f"{lines[0].values[-1]:g}" if lines else "no data"
        axes.text(0.5, 0.5, text, fontsize=40, ha="center", va="center", color=COLOURS[0])
        return
    shown = panel["fieldConfig"]["defaults"]
    unit = shown["unit"]
    scale = 100.0 if unit == "percentunit" else 1.0
    lines = sorted(lines, key=lambda one: max(one.values), reverse=True)
    for number, one in enumerate(lines):
        axes.plot(
            [at_s - begin_s for at_s in one.at_s],
            [scale * value for value in one.values],
            color=COLOURS[number % len(COLOURS)],
            linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
            linewidth=1.4,
            marker="" if len(one.values) > 1 else "o",
            label=one.legend if number < _MOST_LINES else None,
        )
    axes.set_xlim(0, end_s - begin_s)
    axes.set_ylim(0, scale * shown["max"] if "max" in shown else None)
    axes.set_xlabel("seconds")
    axes.set_ylabel({"percentunit": "%", "s": "seconds", "reqps": "a second"}.get(unit, ""))
    if lines:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    else:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="#999999")


def rows() -> dict[str, list[dict[str, Any]]]:
    """The dashboard's panels by the title of their row."""
    board = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
    found: dict[str, list[dict[str, Any]]] = {}
    for panel in board["panels"]:
        if panel["type"] == "row":
            found[panel["title"]] = []
        else:
            found[next(reversed(found))].append(panel)
    return found


def pictures(url: str, begin_s: float, end_s: float, folder: Path) -> list[str]:
    """Draw every row; returns the panels without data."""
    empty = []
    with httpx.Client(base_url=url, timeout=60) as http:
        for title, row in rows().items():
            figure, axes = panels(len(row), columns=3)
            for panel, place in zip(row, axes, strict=True):
                lines = lines_of(panel, http, begin_s, end_s)
                draw(panel, lines, place, begin_s, end_s)
                if not lines:
                    empty.append(f"{title}: {panel['title']}")
            save(figure, folder / f"{title.lower()}.png")
    return empty


def fired(url: str) -> list[str]:
    """The alerts that fire now."""
    alerts = httpx.get(f"{url}/api/v1/alerts", timeout=30).raise_for_status().json()["data"]["alerts"]
    return sorted({one["labels"]["alertname"] for one in alerts if one["state"] == "firing"})


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observe", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("dist/observe"), help="folder of the pictures")
    parser.add_argument("--keep", action="store_true", help="leave server and Prometheus up until Ctrl-C")
    given = parser.parse_args()
    if shutil.which("prometheus") is None:
        sys.stderr.write("prometheus is not installed: apt-get install prometheus\n")
        return 1
    out, port = given.out.resolve(), free_port()
    out.mkdir(parents=True, exist_ok=True)
    (out / "server.log.db").unlink(missing_ok=True)  # the registry of a run before
    environment = {"DEAR_ADMIN_KEY": _ADMIN_KEY}
    with (
        prometheus(out, port) as url,
        Server(server_config(out, port), out / "server.log", environment) as server,
    ):
        begin_s = time.time()
        asyncio.run(load(server.url, given.minutes * 60))
        time.sleep(_LATE_S)
        empty = pictures(url, begin_s, time.time(), out)
        sys.stdout.write(f"alerts that fire: {', '.join(fired(url)) or 'none'}\n")
        sys.stdout.write("".join(f"no data: {one}\n" for one in empty))
        sys.stdout.write(f"pictures in {out}\n")
        if given.keep:
            sys.stdout.write(f"server {server.url}, Prometheus {url}; Ctrl-C ends them\n")
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
