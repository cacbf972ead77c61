"""Engines that come and go with the work: requests arrive ever faster, then ever slower, then not at all.

Run it with: python -m benchmarks.ramp [--peak 1.5] [--out FOLDER]; some eight minutes

``dear serve`` on a free port with the tiny model and ``engine.autoscaling`` from none to two engines.
Requests (20 passages each, the adapter "legal") arrive at an even rate that rises to ``peak`` times what
three callers got from one engine, stays there, and falls; none waits for another. Every second it notes
arrivals, answers, and the engines that run. Writes ``ramp.json`` and ``ramp.png``; exit code 1: a request was
lost, or the engines did not follow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.environment import environment
from benchmarks.plots import COLOURS, panels, save
from benchmarks.server import CPU_CONFIG, Server, parse_metrics
from dear_client import AsyncClient, ClientError, Timeout

SCALING = {
    "min_replicas": 0,
    "max_replicas": 2,
    "tokens_per_replica": 1500,
    "upscale_delay_s": 2,
    "downscale_delay_s": 10,
    "to_zero_delay_s": 10,
}
DOCUMENTS = [f"passage {number} of a list about parking permits" for number in range(20)]
CALLERS, CALLING_S = 3, 10.0  # what they have in progress is one engine's tokens: no second one is asked for
RISE_S, TOP_S, FALL_S = 60.0, 120.0, 40.0
_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Second:
    """What was counted ``at_s`` seconds after the first request: the last two since the row before."""

    at_s: float
    engines: float
    arrived: int
    answered: int


@dataclass(slots=True)
class Ramp:
    """A whole run. Times are seconds from its first request.

    ``one_per_s`` is what CALLERS got from one engine, requests a second; the ramp's top is ``peak`` times
    that. ``wake_s`` is how long the request took that found no engine; ``outcomes`` counts ``answered`` and
    errors by their class; ``idle_s`` and ``none_s`` say when the last engine was gone, before the ramp and
    after it.
    """

    peak: float
    one_per_s: float = 0.0
    seconds: list[Second] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    idle_s: float = 0.0
    wake_s: float = 0.0
    two_s: float = 0.0
    none_s: float = 0.0

    @property
    def lost(self) -> int:
        """Requests without an answer."""
        return self.outcomes.total() - self.outcomes["answered"]

    def write(self, folder: Path) -> None:
        """``ramp.json`` and ``ramp.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = environment() | {"command": f"python -m benchmarks.ramp --peak {self.peak:g}"}
        # asdict counts the pairs of a Counter anew.
        found = facts | asdict(self) | {"outcomes": dict(self.outcomes)}
        (folder / "ramp.json").write_text(json.dumps(found, indent=1) + "\n")
        figure, (rates, engines) = panels(2, width_in=9.0, height_in=2.6, columns=1)
        at_s = [second.at_s for second in self.seconds]
        rates.plot(at_s, _smooth([s.arrived for s in self.seconds]), color=COLOURS[0], label="arrived")
        rates.plot(at_s, _smooth([s.answered for s in self.seconds]), color=COLOURS[2], label="answered")
        rates.set_ylabel("requests/s, over 5 s")
        rates.set_title(f"{self.outcomes['answered']} requests answered, {self.lost} lost")
        rates.legend()
        engines.step(at_s, [s.engines for s in self.seconds], where="post", color=COLOURS[1])
        engines.set_yticks(range(SCALING["max_replicas"] + 1))
        engines.set_ylabel("engines")
        engines.set_xlabel("seconds")
        save(figure, folder / "ramp.png")


async def ramp(server: Server, peak: float) -> Ramp:
    """Run it on a server whose engines scale by SCALING.

    Raises:
        TimeoutError: the engines did not follow.
    """
    result = Ramp(peak)
    arrived = answered = 0
    began_s = time.monotonic()

    async def watch() -> None:
        seen = (0, 0)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            while True:
                count = parse_metrics((await http.get("/metrics")).text)["dear_engines"]
                row = Second(time.monotonic() - began_s, count, arrived - seen[0], answered - seen[1])
                seen = (arrived, answered)
                result.seconds.append(row)
                await asyncio.sleep(1)

    async def reach(count: int, when: str) -> float:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not result.seconds or result.seconds[-1].engines != count:  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        except TimeoutError:
            raise TimeoutError(f"the engines were never {count} {when}") from None
        return time.monotonic() - began_s

    async def call(client: AsyncClient) -> None:
        nonlocal arrived, answered
        arrived += 1
        try:
            await client.rerank("parking", DOCUMENTS, model="legal")
            outcome = "answered"
            answered += 1
        except ClientError as error:
            outcome = type(error).__name__
        result.outcomes[outcome] += 1

    async with (
        AsyncClient(server.url, timeout=Timeout(answer_s=_PATIENCE_S, total_s=_PATIENCE_S)) as client,
        asyncio.TaskGroup() as group,
    ):
        watching = group.create_task(watch())
        await call(client)
        await reach(1, "at the start")  # a gateway counts none before it has asked
        result.idle_s = await reach(0, "before the ramp")
        since_s = time.monotonic()
        await call(client)
        result.wake_s = time.monotonic() - since_s
        before, since_s = answered, time.monotonic()

        async def repeat() -> None:
            while time.monotonic() < since_s + CALLING_S:
                await call(client)

        await asyncio.gather(*(repeat() for _ in range(CALLERS)))
        result.one_per_s = (answered - before) / (time.monotonic() - since_s)
        calls, start_s = [], time.monotonic()
        reached = group.create_task(reach(2, "on the ramp"))
        while (pause_s := _pause_s(time.monotonic() - start_s, peak * result.one_per_s)) is not None:
            calls.append(group.create_task(call(client)))
            await asyncio.sleep(pause_s)
        await asyncio.gather(*calls)
        result.two_s = await reached
        result.none_s = await reach(0, "after the ramp")
        watching.cancel()
    return result


def server(folder: Path, **environment: str) -> Server:
    """A server, not started, whose engines scale by SCALING and are looked at every second."""
    config: dict[str, Any] = yaml.safe_load(CPU_CONFIG.read_text())
    config["model"]["source"] = str(CPU_CONFIG.parent / "demo" / "base")
    config["adapters"]["root"] = str(CPU_CONFIG.parent / "demo" / "adapters")
    config["engine"] |= {"replicas": 1, "autoscaling": SCALING, "wake_timeout_s": _PATIENCE_S}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for kind in ("REPLICA", "HANDLE"):
        environment[f"RAY_SERVE_{kind}_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    return Server(folder / "config.yaml", folder / "output.log", environment)


def _pause_s(at_s: float, peak_s: float) -> float | None:
    """Seconds to the next arrival; None where the ramp is over."""
    if at_s > RISE_S + TOP_S + FALL_S:
        return None
    share = min(1.0, at_s / RISE_S, (RISE_S + TOP_S + FALL_S - at_s) / FALL_S)
    return 1 / max(0.5, share * peak_s)


def _smooth(counts: Sequence[int]) -> list[float]:
    """The mean of each count and its four neighbours."""
    near = [counts[max(0, place - 2) : place + 3] for place in range(len(counts))]
    return [sum(some) / len(some) for some in near]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ramp",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peak", type=float, default=1.5, help="top, in rates of one engine")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ramp"))
    arguments = parser.parse_args()
    result: Ramp | None = None
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as running:
        try:
            result = asyncio.run(ramp(running, arguments.peak))
        except* TimeoutError as late:
            sys.stderr.write("".join(f"{one}\n" for one in late.exceptions))
    if result is None:
        return 1
    result.write(arguments.out)
    sys.stdout.write(
        f"{dict(result.outcomes)}; from no engine the first request took {result.wake_s:.0f} s; the top was "
        f"{result.peak * result.one_per_s:.0f} requests/s, two engines at {result.two_s:.0f} s, none at "
        f"{result.none_s:.0f} s\nwritten: {arguments.out}\n"
    )
    return 1 if result.lost else 0


if __name__ == "__main__":
    sys.exit(main())
