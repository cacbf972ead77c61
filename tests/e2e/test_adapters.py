"""Adapters on the real engine: swapped under load, more than slots, refused where they are bad."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import ADMIN_KEY, BODY, Admin, Server, order, order_of

pytestmark = pytest.mark.e2e

said = logging.getLogger(__name__).info


@asynccontextmanager
async def callers(
    count: int, url: str, call: Callable[[httpx.AsyncClient], Any]
) -> AsyncIterator[asyncio.Event]:
    """So many callers that call again and again until the event is set or the block ends."""
    over = asyncio.Event()

    async def caller() -> None:
        limits = httpx.Limits(max_keepalive_connections=1)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
            while not over.is_set():
                await call(http)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(caller())
        yield over
        over.set()


def test_a_second_adapter_changes_the_order_and_a_rollback_changes_it_back(
    http: httpx.Client, admin: Admin
) -> None:
    made = admin.register("second", "legal", activate=True)
    assert (made.status_code, made.json()["state"]) == (201, "active"), made.text
    first = order_of(http, "second")
    assert first == order_of(http, "legal")
    staged = admin.register("second", "medical").json()
    assert staged["state"] == "staged"
    assert order_of(http, "second") == first
    admin.do("second", "activate", revision=staged["id"])
    assert order_of(http, "second") == order_of(http, "medical") != first
    admin.do("second", "rollback")
    assert order_of(http, "second") == first
    cards = {card["id"]: card["root"] for card in http.get("/v1/models").json()["data"]}
    assert cards["second"] == made.json()["id"]
    admin.do("second", "retire")
    assert http.post("/v2/rerank", json=BODY | {"model": "second"}).status_code == 404
    assert set(admin.states("second").values()) <= {"retired", "draining"}


def test_the_walk_through_of_the_docs(server: Server, admin: Admin) -> None:
    """What the page prints is what the page says: each order stands beside its command, as a comment."""
    page = (ROOT / "serving" / "README.md").read_text()
    (block,) = (one for one in page.split("```") if one.startswith("bash") and "register desk" in one)
    said = [line.partition("#")[2].split() for line in block.splitlines() if line.startswith("rank ")]
    script = block.removeprefix("bash\n").replace("localhost:8000", server.url.removeprefix("http://"))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DEAR_BASE_URL": server.url,
    }
    command = ["bash", "-e", "-c", script.replace("DEAR_ADMIN_KEY=root", f"DEAR_ADMIN_KEY={ADMIN_KEY}")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    ranked = [line.split() for line in done.stdout.splitlines() if line.startswith("index:")]
    assert ranked == [said[0], said[1], said[0]]
    assert set(admin.states("desk").values()) <= {"retired", "draining"}


def test_openai_calls_know_public_names_alone(server: Server, admin: Admin) -> None:
    assert admin.register("spoken", "legal", activate=True).status_code == 201
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    assert client.completions.create(model="spoken", prompt="a", max_tokens=2).model == "spoken"
    chunks = list(client.completions.create(model="spoken", prompt="a", max_tokens=4, stream=True))
    assert {chunk.model for chunk in chunks} == {"spoken"}
    admin.do("spoken", "retire")


def test_who_does_not_wait_gets_it_all_the_same(http: httpx.Client, admin: Admin) -> None:
    """Nobody asks for anything meanwhile: the gateway moves revisions on by itself."""
    asked = admin.register("unhurried", "legal", activate=True, wait_s=0)
    assert (asked.status_code, asked.json()["state"]) == (202, "registered")
    deadline_s = time.monotonic() + 20
    while http.post("/v2/rerank", json=BODY | {"model": "unhurried"}).status_code == 404:
        assert time.monotonic() < deadline_s, admin.states("unhurried")
        time.sleep(0.1)
    admin.do("unhurried", "retire")


def test_a_seed_file_of_adapters_is_applied_once(server: Server, admin: Admin, tmp_path: Path) -> None:
    file = tmp_path / "seed.yaml"
    environment = os.environ | {"DEAR_BASE_URL": server.url, "DEAR_ADMIN_KEY": ADMIN_KEY}

    def apply(source: str) -> str:
        file.write_text(f"adapters: [{{name: seeded, source: {source}, shared: false}}]")
        command = [sys.executable, "-m", "dear_serving", "apply", str(file)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    said_first, said_again, said_then = apply("legal"), apply("legal"), apply("medical")
    assert said_first.startswith("activate seeded@")
    assert said_again == "nothing to change\n"
    assert said_then.startswith("activate seeded@") and said_then != said_first
    admin.do("seeded", "retire")


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.long)])
async def test_swaps_under_load_mix_nothing_up(
    server: Server, http: httpx.Client, admin: Admin, count: int
) -> None:
    """Every answer is the order of one revision, and of one that the name stood for in the request's time.

    The prompts are the same over and over, so that their prefixes are in the cache whenever it is asked.
    """
    name, revisions = f"swapped-{count}", {}
    for source in ("legal", "medical"):
        made = admin.register(name, source, activate=True).json()
        revisions[made["id"]] = order_of(http, name)
    assert len(set(revisions.values())) == 2
    # When each swap was asked for and when it was answered, by the revision it went to.
    swaps: list[tuple[str, float, float]] = [(list(revisions)[1], 0.0, 0.0)]
    answers: list[tuple[str, float, float]] = []

    async def call(client: httpx.AsyncClient) -> None:
        started_s = time.monotonic()
        reply = await client.post("/v2/rerank", json=BODY | {"model": name})
        assert reply.status_code == 200, reply.text
        revision = reply.json()["meta"]["dear"]["revision"]
        assert order(reply.json()) == revisions[revision]
        answers.append((revision, started_s, time.monotonic()))

    started_s = time.monotonic()
    async with callers(4, server.url, call):
        for number in range(count):
            wanted = list(revisions)[number % 2]
            asked_s = time.monotonic()
            await asyncio.to_thread(admin.do, name, "activate", revision=wanted)
            swaps.append((wanted, asked_s, time.monotonic()))
            # Every fifth time long enough for the revision before to leave the engine.
            await asyncio.sleep(0 if number % 5 else 0.5)
    said("%d swaps in %.0f s beside %d answers", count, time.monotonic() - started_s, len(answers))
    swaps.append(("", float("inf"), float("inf")))
    for revision, began_s, ended_s in answers:
        assert any(
            wanted == revision and asked_s <= ended_s and following[2] >= began_s
            for (wanted, asked_s, _), following in itertools.pairwise(swaps)
        ), "an answer of a revision that the name had not stood for since before the request came"
    assert len(answers) > 2 * count
    counts = Counter(revision for revision, _, _ in answers)
    assert min(counts[revision] for revision in revisions) > count / 10
    admin.do(name, "retire")


@pytest.mark.parametrize(("count", "requests"), [(8, 3), pytest.param(64, 10, marks=pytest.mark.long)])
async def test_more_adapters_than_slots_share_them_and_none_starves(
    server: Server, http: httpx.Client, admin: Admin, count: int, requests: int
) -> None:
    """Popularity after Zipf, four slots: every answer is its own adapter's.

    Where there are enough requests to say so, no p95 is over 4x the median adapter's.
    """
    sources = ("legal", "medical")
    orders = {source: order_of(http, source) for source in sources}
    names = [f"domain-{number:02}-of-{count}" for number in range(count)]
    revisions = {}
    for number, name in enumerate(names):
        made = admin.register(name, sources[number % 2], activate=True)
        assert made.status_code == 201, made.text
        revisions[name] = made.json()["id"]
    chance = random.Random(7)
    weights = [1 / rank for rank in range(1, count + 1)]
    taken: dict[str, list[float]] = defaultdict(list)

    async def call(client: httpx.AsyncClient) -> None:
        # A quarter of the requests look after the rare ones, so that there is something to measure.
        rare = min(names, key=lambda name: len(taken[name]))
        name = rare if chance.random() < 0.25 else chance.choices(names, weights)[0]
        started_s = time.monotonic()
        reply = await client.post("/v2/rerank", json=BODY | {"model": name})
        assert reply.status_code == 200, reply.text
        assert reply.json()["meta"]["dear"]["revision"] == revisions[name]
        assert order(reply.json()) == orders[sources[names.index(name) % 2]]
        taken[name].append(time.monotonic() - started_s)

    def enough() -> bool:
        return len(taken) == count and min(map(len, taken.values())) >= requests

    started_s = time.monotonic()
    async with callers(16, server.url, call):
        while not enough() and time.monotonic() - started_s < 150:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert enough(), {name: len(times) for name, times in taken.items()}
    took_s = time.monotonic() - started_s
    for name in names:
        admin.do(name, "retire")
    p95 = {name: quantiles(times, n=20)[-1] for name, times in taken.items()}
    worst, middle = max(p95.values()), median(p95.values())
    total = sum(map(len, taken.values()))
    said("%d adapters, 4 slots, 16 callers: %d requests, %.0f requests/s", count, total, total / took_s)
    said("p95 by adapter: median %.3f s, worst %.3f s, %.1fx", middle, worst, worst / middle)
    assert requests < 10 or worst <= 4 * middle


def tamper(folder: Path, kind: str) -> None:
    """Spoil a good adapter."""
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    content = weights.read_bytes()
    settings = json.loads(config.read_text())
    match kind:
        case "tampered":
            length = struct.unpack("<Q", content[:8])[0]
            header = json.loads(content[8 : 8 + length])
            first = next(key for key in header if key != "__metadata__")
            header[first]["data_offsets"][1] += 4096
            said_header = json.dumps(header).encode().ljust(length)
            weights.write_bytes(struct.pack("<Q", len(said_header)) + said_header + content[8 + length :])
        case "truncated":
            weights.write_bytes(content[: len(content) // 2])
        case "pickled":
            weights.rename(folder / "adapter_model.bin")
        case "wrong base":
            length = struct.unpack("<Q", content[:8])[0]
            header = content[8 : 8 + length].replace(b"[16,256]", b"[32,128]")
            weights.write_bytes(content[:8] + header + content[8 + length :])
        case "wrong rank":
            config.write_text(json.dumps(settings | {"r": 64}))
        case "linked outside":
            weights.unlink()
            weights.symlink_to("/etc/passwd")
        case "sparse":
            os.truncate(weights, 10 * 2**30)
        case "not finite":
            length = struct.unpack("<Q", content[:8])[0]
            weights.write_bytes(content[: 8 + length] + b"\xff" * 64 + content[72 + length :])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("tampered", "not a readable safetensors file"),
        ("truncated", "not a readable safetensors file"),
        ("pickled", "weights must be safetensors, found adapter_model.bin"),
        ("wrong base", "the base model needs"),
        ("wrong rank", "rank 64 is over max_lora_rank 16"),
        ("linked outside", "leads outside the folder that adapters come from"),
        ("sparse", "10,737,418,240 bytes"),
        ("not finite", "no finite number"),
    ],
)
def test_a_bad_adapter_is_refused_and_the_engine_keeps_serving(
    http: httpx.Client, admin: Admin, adapters_folder: Path, kind: str, reason: str
) -> None:
    folder = adapters_folder / "bad"
    shutil.copytree(adapters_folder / "legal", folder)
    try:
        tamper(folder, kind)
        started_s = time.monotonic()
        reply = admin.register("bad", "bad", activate=True)
        assert time.monotonic() - started_s < 5
    finally:
        shutil.rmtree(folder)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "source")
    assert reply.json()["message"].startswith('adapter "bad": ')
    assert reason in reply.json()["message"]
    assert str(adapters_folder) not in reply.text
    assert admin.http.get("/adapters/bad").status_code == 404
    assert http.post("/v2/rerank", json=BODY | {"model": "bad"}).status_code == 404
    assert http.post("/v2/rerank", json=BODY | {"model": "legal"}).status_code == 200


def test_what_only_the_engine_notices_fails_the_revision_and_nothing_else(
    http: httpx.Client, admin: Admin, adapters_folder: Path
) -> None:
    """Numbers that are finite one by one, and too large together."""
    folder = adapters_folder / "huge"
    shutil.copytree(adapters_folder / "legal", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 3e38}))
    before = order_of(http, "legal")
    assert admin.register("careful", "legal", activate=True).status_code == 201
    reply = admin.register("careful", "huge", activate=True)
    shutil.rmtree(folder)
    assert reply.status_code == 422, reply.text
    assert "no finite probabilities" in reply.json()["message"]
    assert "failed" in admin.states("careful").values()
    assert order_of(http, "careful") == order_of(http, "legal") == before
    admin.do("careful", "retire")


def test_a_gateway_killed_in_the_middle_of_a_swap_loses_nothing(
    server: Server, http: httpx.Client, admin: Admin
) -> None:
    """The swap it was asked for is in the registry: whoever comes after it goes on with it."""
    first = admin.register("interrupted", "legal", activate=True).json()["id"]
    gateway = next(
        one for one in server.descendants() if "ServeReplica:dear:Gateway" in "".join(one.cmdline())
    )
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(admin.register, "interrupted", "medical", activate=True)
        deadline_s = time.monotonic() + 10
        while len(admin.states("interrupted")) == 1 and time.monotonic() < deadline_s:
            time.sleep(0.005)
        gateway.kill()
        # Serve's proxy may send it again, to the gateway that comes.
        with contextlib.suppress(httpx.HTTPError):
            asked.result()
    deadline_s = time.monotonic() + 100
    while True:
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            states = admin.states("interrupted")
            if "active" in states.values() and states[first] == "retired":
                break
        assert time.monotonic() < deadline_s, states
        time.sleep(0.5)
    assert order_of(http, "interrupted") == order_of(http, "medical")
    admin.do("interrupted", "retire")
