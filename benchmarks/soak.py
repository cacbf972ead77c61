"""Mixed load on a real server for minutes or hours, and whether its processes stay as they are.

Run it with: make soak (3 minutes) or MINUTES=60 make soak; python -m benchmarks.soak --minutes 3 --out FOLDER

``dear serve --config configs/cpu.yaml`` on a free port. At the same time: reranks of several strategies and
models, streams, chat, clients that leave, bad bodies, and an adapter that is swapped now and then. Every few
seconds, up to 240 times, the resident memory, the open file handles and the threads of every process of the
server are noted.

Growth is judged over the last two thirds, from the median of their first quarter to that of their last one:
what is allocated once, on the first requests, is no growth. A process is flat if it grew by at most
MAX_MEMORY_SHARE of its memory or MAX_MEMORY_BYTES, whichever is more, by MAX_HANDLES and by MAX_THREADS.
Writes ``soak.json`` and ``soak.png``, prints a line for each process, and exits with 1 if one is not flat, if
one of Ray's actors ended, or if a request failed by the server's fault.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, get_args

import httpx
import psutil

from benchmarks.environment import environment
from benchmarks.plots import panels, save
from benchmarks.server import CPU_CONFIG, Server
from benchmarks.workloads import Lists
from dear_client import AsyncClient, Retry, ServerError
from dear_client.options import Strategy
from dear_serving.ranking.strategies import FIRST_STAGE

MAX_MEMORY_SHARE, MAX_MEMORY_BYTES = 0.05, 24 * 2**20
MAX_HANDLES, MAX_THREADS = 16, 8
SAMPLE_S, MAX_SAMPLES, SWAP_S = 3.0, 240, 20.0
ALL = "all together"
_MIB = 2**20
_ADMIN_KEY = "soak"
_STRATEGIES = tuple(name for name in get_args(Strategy) if name not in FIRST_STAGE)
_MODELS = ("dear-tiny", "legal", "medical")
_BAD: tuple[tuple[str, bytes], ...] = (
    ("/v2/rerank", b"{"),
    ("/v2/rerank", b'{"model": "legal", "query": "who", "documents": []}'),
    ("/v2/rerank", b'{"model": "nobody", "query": "who", "documents": ["a", "b"]}'),
    ("/v1/chat/completions", b'{"model": "legal", "messages": "none"}'),
)
_NO_FAULT = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Sample:
    """A process ``at_s`` seconds after the start of the load."""

    at_s: float
    memory_bytes: int
    handles: int
    threads: int


@dataclass(slots=True)
class Track:
    """The samples of one process; ``is_actor``: one that Ray is not to replace."""

    name: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def is_actor(self) -> bool:
        """Whether its end is a failure."""
        return "Gateway" in self.name or "Engine" in self.name or "Proxy" in self.name

    def growth(self, value: Callable[[Sample], float]) -> float:
        """See the module: from the first to the last quarter of the last two thirds."""
        late = [value(one) for one in _late(self.samples)]
        quarter = max(1, len(late) // 4)
        return median(late[-quarter:]) - median(late[:quarter])

    def per_hour(self, value: Callable[[Sample], float]) -> float:
        """The slope of a line through the last two thirds."""
        late = _late(self.samples)
        if len(late) < 2:
            return 0.0
        return linear_regression([one.at_s for one in late], [value(one) for one in late]).slope * 3600

    def grown(self) -> list[str]:
        """What grew beyond its bound."""
        most_bytes = max(MAX_MEMORY_BYTES, MAX_MEMORY_SHARE * _late(self.samples)[0].memory_bytes)
        bounds: dict[str, tuple[Callable[[Sample], float], float]] = {
            "memory": (memory, most_bytes),
            "handles": (handles, MAX_HANDLES),
            "threads": (threads, MAX_THREADS),
        }
        return [name for name, (value, most) in bounds.items() if self.growth(value) > most]


def memory(sample: Sample) -> float:
    """Resident bytes."""
    return sample.memory_bytes


def handles(sample: Sample) -> float:
    """Open files and sockets."""
    return sample.handles


def threads(sample: Sample) -> float:
    """Threads."""
    return sample.threads


def _late(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[len(samples) // 3 :]


class Watch:
    """Samples a server's processes: ``tracks`` by process id, and of all together."""

    def __init__(self, supervisor: psutil.Process) -> None:
        self._supervisor = supervisor
        self._began_s = time.monotonic()
        self.tracks: dict[int, Track] = {}
        self.all = Track(ALL)

    def sample(self) -> None:
        """Take one sample of every process."""
        at_s, seen = time.monotonic() - self._began_s, []
        for process in (self._supervisor, *self._supervisor.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it ended
                with process.oneshot():
                    rss, handled = process.memory_info().rss, process.num_fds()
                    sample = Sample(at_s, rss, handled, process.num_threads())
                    track = self.tracks.setdefault(process.pid, Track(_name(process)))
                track.samples.append(sample)
                seen.append(sample)
        sums = (sum(map(value, seen)) for value in (memory, handles, threads))
        self.all.samples.append(Sample(at_s, *map(int, sums)))

    def lasting(self) -> list[Track]:
        """The processes that were there from the first third to the end; then all together."""
        last_s = self.all.samples[-1].at_s
        first_s = _late(self.all.samples)[0].at_s
        kept = [
            one
            for one in self.tracks.values()
            if one.samples[0].at_s <= first_s and one.samples[-1].at_s == last_s
        ]
        return [*sorted(kept, key=lambda one: -one.samples[-1].memory_bytes), self.all]

    def ended(self) -> list[str]:
        """Actors that are gone."""
        last_s = self.all.samples[-1].at_s
        return [one.name for one in self.tracks.values() if one.is_actor and one.samples[-1].at_s != last_s]


def _name(process: psutil.Process) -> str:
    command = process.cmdline() or [process.name()]
    if command[0].startswith(("ray::", "VLLM")):
        return re.sub(r"^ray::(ServeReplica:dear:)?|\.[^.]*$", "", command[0])
    modules = [Path(one).name for one in command if not one.startswith("-") and "=" not in one]
    return " ".join(modules[: 2 if modules[0].startswith("python") else 1])


class Load:
    """What callers do, one kind each; ``results`` counts kinds with how they ended."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._lists = Lists(seed)
        self.results: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, seconds: float) -> None:
        """All kinds at once, for so long."""
        retry = Retry(attempts=1)
        async with (
            AsyncClient(self._url, retry=retry, admin_key=_ADMIN_KEY) as client,
            httpx.AsyncClient(base_url=self._url, timeout=120) as http,
        ):
            kinds: list[tuple[str, Callable[[], Awaitable[object]], float]] = [
                ("rerank", lambda: self._rerank(client), 0.0),
                ("rerank", lambda: self._rerank(client), 0.0),
                ("stream", lambda: self._stream(client), 0.1),
                ("chat", lambda: self._chat(http), 0.1),
                ("leaves", lambda: self._leave(client), 0.1),
                ("bad body", lambda: self._bad(http), 0.2),
                ("swap", lambda: self._swap(client), SWAP_S),
            ]
            ends_s = time.monotonic() + seconds
            await asyncio.gather(*(self._repeat(*kind, ends_s) for kind in kinds))

    async def _repeat(
        self, kind: str, work: Callable[[], Awaitable[object]], pause_s: float, ends_s: float
    ) -> None:
        while (left_s := ends_s - time.monotonic()) > 0:
            try:
                await work()
                self.results[f"{kind}: ok"] += 1
            except ServerError as error:
                self._count(kind, error.status, str(error))
            except httpx.HTTPStatusError as error:
                self._count(kind, error.response.status_code, error.response.text)
            except Exception as error:  # a connection that broke is a fault as well
                self._count(kind, 0, repr(error))
            await asyncio.sleep(min(pause_s, left_s))

    def _count(self, kind: str, status: int, text: str) -> None:
        self.results[f"{kind}: {status or 'no answer'}"] += 1
        if status not in _NO_FAULT:
            self.faults.append(f"{kind}: {status} {text[:200]}")

    async def _rerank(self, client: AsyncClient) -> None:
        one = self._lists.new(self._random.choice((5, 20, 20, 40)))
        strategy = self._random.choice(_STRATEGIES)
        if strategy == "single" and len(one.passages) > 20:
            strategy = "auto"
        await client.rerank(
            one.query, list(one.passages), strategy=strategy, model=self._random.choice(_MODELS)
        )

    async def _stream(self, client: AsyncClient) -> None:
        one = self._lists.new(20)
        async with client.stream(one.query, list(one.passages), model="legal") as ranks:
            async for _ in ranks:
                pass

    async def _chat(self, http: httpx.AsyncClient) -> None:
        body: dict[str, Any] = {"model": self._random.choice(_MODELS), "max_tokens": 16}
        body["messages"] = [{"role": "user", "content": self._lists.new(5).query}]
        body["stream"] = self._random.random() < 0.5
        (await http.post("/v1/chat/completions", json=body)).raise_for_status()

    async def _leave(self, client: AsyncClient) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._random.uniform(0.01, 0.4)):
                await (self._rerank(client) if self._random.random() < 0.5 else self._stream(client))

    async def _bad(self, http: httpx.AsyncClient) -> None:
        path, body = self._random.choice(_BAD)
        reply = await http.post(path, content=body, headers={"content-type": "application/json"})
        if not 400 <= reply.status_code < 500:
            self._count("bad body", reply.status_code, reply.text)

    async def _swap(self, client: AsyncClient) -> None:
        source = self._random.choice(("legal", "medical"))
        await client.admin.register_adapter("legal", source, activate=True)


async def soak(server: Server, seconds: float) -> tuple[Watch, Load]:
    """Load and samples, side by side."""
    watch, load = Watch(psutil.Process(server.process.pid)), Load(server.url)
    working = asyncio.create_task(load.run(seconds))
    while not working.done():
        watch.sample()
        await asyncio.wait({working}, timeout=max(SAMPLE_S, seconds / MAX_SAMPLES))
    await working
    return watch, load


def line(track: Track) -> str:
    """A process in one line."""
    last, grown = track.samples[-1], track.grown()
    return (
        f"{track.name[:28]:28} {last.memory_bytes / _MIB:7.0f} MiB {track.growth(memory) / _MIB:+6.1f} "
        f"({track.per_hour(memory) / _MIB:+7.0f}/h)  {last.handles:4} handles {track.growth(handles):+4.0f} "
        f"({track.per_hour(handles):+5.0f}/h)  {last.threads:4} threads {track.growth(threads):+4.0f}  "
        f"{'grows: ' + ', '.join(grown) if grown else 'flat'}"
    )


def plot(tracks: Sequence[Track], path: Path) -> Path:
    """Growth since the first sample, a line a process."""
    figure, axes = panels(3, width_in=5.0)
    whats: tuple[tuple[str, Callable[[Sample], float], float], ...] = (
        ("resident memory, MiB", memory, _MIB),
        ("open handles", handles, 1),
        ("threads", threads, 1),
    )
    for one, (title, value, unit) in zip(axes, whats, strict=True):
        by_change = sorted(tracks, key=lambda track: -abs(track.growth(value)))
        for track in by_change:
            times = [sample.at_s / 60 for sample in track.samples]
            since = [(value(sample) - value(track.samples[0])) / unit for sample in track.samples]
            style = {"color": "black", "linewidth": 2.0} if track.name == ALL else {"linewidth": 1.2}
            label = track.name[:24] if track in by_change[:6] else None
            one.plot(times, since, label=label, **style)
        one.set_title(f"Change of {title}")
        one.set_xlabel("minutes of load")
        one.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return save(figure, path)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="folder of soak.json and soak.png")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "server.log.db").unlink(missing_ok=True)  # the registry of a run before
    with Server(CPU_CONFIG, given.out / "server.log", {"DEAR_ADMIN_KEY": _ADMIN_KEY}) as server:
        watch, load = asyncio.run(soak(server, given.minutes * 60))
    tracks, ended = watch.lasting(), watch.ended()
    report = {
        "minutes": given.minutes,
        "environment": environment(),
        "results": load.results,
        "faults": load.faults,
        "ended": ended,
        "processes": [asdict(track) | {"grows": track.grown()} for track in tracks],
    }
    (given.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    plot(tracks, given.out / "soak.png")
    lines = [line(track) for track in tracks]
    lines += [f"{name}: ended" for name in ended]
    lines += [f"fault: {fault}" for fault in load.faults[:10]]
    lines.append(", ".join(f"{result} {count}" for result, count in sorted(load.results.items())))
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if ended or load.faults or any(track.grown() for track in tracks) else 0


if __name__ == "__main__":
    sys.exit(main())
