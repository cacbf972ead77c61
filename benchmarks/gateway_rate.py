"""Processor time that a request takes in Ray's proxy and in a gateway, with an engine that answers at once.

Run it with: python -m benchmarks.gateway_rate [--seconds 5] [--callers 16]

A local Ray as ``dear serve`` starts it, its proxy and one gateway (configs/cpu.yaml), in front of
an engine that does no work. Two closed loops after each other: reranks of 20 passages, and OpenAI
chat. Prints requests a second, and for each process its processor time a request in milliseconds; that is
steadier than wall time where a machine is shared. Variables of the environment, such as
RAY_SERVE_THROUGHPUT_OPTIMIZED=1, are passed on to Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.server import CPU_CONFIG
from benchmarks.workloads import Lists
from dear_serving.process import local_ray, runtime  # noqa: F401  # runtime sets the environment of Ray
from dear_serving.process.background import free_port
from dear_serving.protocol import DecodedWindow, OpenAIRequest, PermutationRequest
from dear_serving.settings import HttpSettings, RegistrySettings, Settings, load_settings
from dear_serving.types import Usage

PASSAGES, LISTS = 20, 200
WARMUP_S = 3.0
_PARTS = {  # a part of the name of a process that Ray starts -> what it is called here
    "ProxyActor": "proxy",
    "HAProxyManager": "proxy",
    "haproxy": "proxy",
    ":Gateway": "gateway",
    ":Engine": "engine",
    "ServeController": "controller",
    "raylet": "raylet",
    "gcs_server": "gcs",
}


class InstantEngine:
    """What a gateway calls of protocol.Engine; every answer is there at once."""

    async def permute(self, request: PermutationRequest) -> DecodedWindow:
        """The passages as they are shown."""
        places = len(request.identifiers)
        usage = Usage(len(request.token_ids), places, 0.0, 0.0)
        return DecodedWindow(tuple(range(places)), request.needed, (-1.0,) * places, usage)

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        """A short chat reply."""
        usage = {"prompt_tokens": request.prompt_tokens, "completion_tokens": 1, "total_tokens": 1}
        message = {"role": "assistant", "content": "[2] > [1]"}
        yield {
            "id": request.request_id,
            "object": "chat.completion",
            "created": 0,
            "model": request.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage | {"total_tokens": request.prompt_tokens + 1},
        }

    async def metrics(self) -> str:
        """See the protocol."""
        return ""


@dataclass(frozen=True, slots=True)
class Rate:
    """``requests`` were answered in ``wall_s`` seconds; ``cpu_s`` by part, in seconds of processor time."""

    requests: int
    wall_s: float
    cpu_s: Mapping[str, float]

    def ms(self, *parts: str) -> float:
        """Milliseconds of processor time a request in these parts."""
        return sum(self.cpu_s.get(part, 0.0) for part in parts) * 1e3 / self.requests


@contextmanager
def instant_server(folder: Path, **changes: Any) -> Iterator[tuple[str, Settings]]:
    """The URL of Ray's proxy before a gateway and the engine above, and their settings, with ``changes``."""
    from ray import serve

    from dear_serving.app import APP_NAME, ENGINE_NAME, ROUTER, gateways_before, http_options

    loaded = load_settings(CPU_CONFIG)
    settings = loaded.model_copy(
        update={
            "adapters": loaded.adapters.model_copy(
                update={"serve": (), "store": str(folder / "store"), "cache": folder / "cache"}
            ),
            "registry": RegistrySettings(url=f"sqlite:///{folder / 'registry.db'}"),
            "http": HttpSettings(port=free_port()),
        }
        | changes
    )
    engine = serve.deployment(
        InstantEngine,
        name=ENGINE_NAME,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        request_router_config=ROUTER,
    )
    for name in ("ray", "ray.serve", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    local_ray.start()
    try:
        serve.start(http_options=http_options(settings), logging_config={"enable_access_log": False})
        serve.run(gateways_before(engine.bind(), settings), name=APP_NAME, route_prefix="/")
        yield f"http://127.0.0.1:{settings.http.port}", settings
    finally:
        import ray

        serve.shutdown()
        ray.shutdown()


async def closed_loop(
    client: httpx.AsyncClient, path: str, bodies: Iterable[bytes], seconds: float, callers: int
) -> int:
    """Post bodies in turn for so long, ``callers`` at a time; returns how many were answered.

    Raises:
        httpx.HTTPStatusError: one was refused.
    """
    turns, ends_s, answered = itertools.cycle(bodies), time.monotonic() + seconds, 0

    async def call() -> None:
        nonlocal answered
        while time.monotonic() < ends_s:
            response = await client.post(path, content=next(turns))
            response.raise_for_status()
            answered += 1

    await asyncio.gather(*(call() for _ in range(callers)))
    return answered


async def measure(url: str, path: str, bodies: list[bytes], seconds: float, callers: int) -> Rate:
    """One load, after a warm-up."""
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        await closed_loop(client, path, bodies, WARMUP_S, callers)
        before, began_s = cpu_s(), time.monotonic()
        requests = await closed_loop(client, path, bodies, seconds, callers)
        wall_s = time.monotonic() - began_s
    return Rate(requests, wall_s, {part: used - before.get(part, 0.0) for part, used in cpu_s().items()})


def cpu_s(server: psutil.Process | None = None) -> dict[str, float]:
    """Seconds of processor time by part."""
    used: defaultdict[str, float] = defaultdict(float)
    for part, process in parts(server):
        with contextlib.suppress(psutil.Error):  # it ended
            times = process.cpu_times()
            used[part] += times.user + times.system
    return used


def parts(server: psutil.Process | None = None) -> Iterator[tuple[str, psutil.Process]]:
    """The processes by part: this one is the client, its descendants, or those of ``server``, the server."""
    this = server or psutil.Process()
    yield "client", this
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended
            name = process.name() + " ".join(process.cmdline()[:1])
            yield next((part for mark, part in _PARTS.items() if mark in name), "other"), process


def loads(settings: Settings) -> dict[str, tuple[str, list[bytes]]]:
    """Path and bodies by the name of a load."""
    lists = Lists(0).take(LISTS, PASSAGES)
    model = settings.model.id
    reranks = [{"model": model, "query": one.query, "documents": list(one.passages)} for one in lists]
    chats = [
        {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": one.query}]}
        for one in lists
    ]
    return {
        f"rerank, {PASSAGES} passages": ("/v2/rerank", [json.dumps(body).encode() for body in reranks]),
        "chat": ("/v1/chat/completions", [json.dumps(body).encode() for body in chats]),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_rate", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each load")
    parser.add_argument("--callers", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, instant_server(Path(folder)) as (url, settings):
        for part, process in parts():
            if part in ("proxy", "gateway"):  # for a profiler
                sys.stderr.write(f"{part}: process {process.pid}\n")
        for name, (path, bodies) in loads(settings).items():
            rate = asyncio.run(measure(url, path, bodies, given.seconds, given.callers))
            both = rate.ms("proxy", "gateway")
            each = ", ".join(f"{part} {rate.ms(part):.2f}" for part in sorted(rate.cpu_s))
            sys.stdout.write(
                f"{name}: {rate.requests / rate.wall_s:.0f} requests/s; proxy and gateway {both:.2f} ms "
                f"of processor time a request ({each})\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
