"""What traces and request lines cost a gateway: processor time a request, in turns of a second.

Run it with: python -m benchmarks.tracing_cost --before CHECKOUT [--rounds 20]

A server as in benchmarks.gateway_rate (a proxy, a gateway, an engine that answers at once) for each of:
another checkout's code; this one's with tracing off and at 1 %, to a collector that takes all;
each with and without a line a request. All run at once and get load in turns of a second, so that what
else the machine does hits all alike. Prints milliseconds of processor time of proxy and gateway a request and
the change against the first server: the median of the rounds, and the middle half of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psutil

from benchmarks.gateway_rate import closed_loop, cpu_s, instant_server, loads
from dear_serving.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("proxy", "gateway")
WARMUP_S = 5.0
_HERE = "serving: "


@dataclass
class Server:
    """A server of one kind, and milliseconds of processor time a request in each round."""

    name: str
    url: str
    process: psutil.Process
    load: tuple[str, list[bytes]]
    took_ms: list[float] = field(default_factory=list)

    async def turn(self, seconds: float, callers: int) -> float:
        """Load it for so long; milliseconds of processor time a request."""
        path, bodies = self.load
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60) as client:
            before = self.used_s()
            requests = await closed_loop(client, path, bodies, seconds, callers)
            return (self.used_s() - before) * 1e3 / requests

    def used_s(self) -> float:
        """Seconds of processor time so far."""
        used = cpu_s(self.process)
        return sum(used.get(part, 0.0) for part in MEASURED)


def serve(changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Serve until stdin ends: a line on stdout says where. Other releases know fewer settings."""
    parts = {name: Settings.model_fields[name].annotation(**given) for name, given in changes.items()}  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder, instant_server(Path(folder), **parts) as (url, settings):
        (path, bodies), *_ = loads(settings).values()
        sys.stdout.write(_HERE + json.dumps([url, path, [body.decode() for body in bodies]]) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


@contextmanager
def running(name: str, checkout: Path, changes: Mapping[str, Any]) -> Iterator[Server]:
    """A server with a checkout's code; this one's benchmark starts it."""
    path = os.pathsep.join(str(one) for one in (checkout / "serving", checkout / "client", ROOT))
    command = [sys.executable, "-m", "benchmarks.tracing_cost", "--serve", json.dumps(changes)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.startswith(_HERE)), None)
            if line is None:
                raise SystemExit(f"{name}: the server did not start")
            url, route, bodies = json.loads(line.removeprefix(_HERE))
            yield Server(name, url, psutil.Process(process.pid), (route, [one.encode() for one in bodies]))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


@contextmanager
def sink() -> Iterator[str]:
    """The URL of a collector that takes everything and keeps nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def compare(servers: list[Server], rounds: int, seconds: float, callers: int) -> None:
    """Load them in turns."""
    for server in servers:
        await server.turn(WARMUP_S, callers)
    for number in range(rounds):
        order = servers[number % len(servers) :] + servers[: number % len(servers)]
        for server in order:
            server.took_ms.append(await server.turn(seconds, callers))


def report(servers: list[Server]) -> Iterator[str]:
    """A line a server."""
    first = servers[0]
    for server in servers:
        changes = [now / then * 100 - 100 for now, then in zip(server.took_ms, first.took_ms, strict=True)]
        low, middle, high = quantiles(changes, n=4) if len(changes) > 1 else changes * 3
        yield (
            f"{server.name}: {median(server.took_ms):.2f} ms a request, {middle:+.1f} % "
            f"(middle half of the rounds {low:+.1f} to {high:+.1f} %)"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing_cost", description=__doc__)
    parser.add_argument("--before", type=Path, default=ROOT, help="a checkout to compare with")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    began_s = time.monotonic()
    with ExitStack() as stack:
        traced = {"tracing": {"endpoint": stack.enter_context(sink()), "sample_ratio": 0.01}}
        servers = [
            stack.enter_context(running(name, checkout, changes))
            for name, checkout, changes in (
                ("before", given.before.resolve(), {}),
                ("no traces, no request lines", ROOT, {"logging": {"requests": False}}),
                ("no traces", ROOT, {}),
                ("traced at 1 %", ROOT, traced),
                ("traced at 1 %, no request lines", ROOT, traced | {"logging": {"requests": False}}),
            )
        ]
        asyncio.run(compare(servers, given.rounds, given.seconds, given.callers))
        for line in report(servers):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stderr.write(f"{time.monotonic() - began_s:.0f} s\n")


if __name__ == "__main__":
    main()
