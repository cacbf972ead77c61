"""A tenant with nothing but its key, against the others on the real engine."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Server
from tests.e2e.test_tenancy import new_tenant, passages

pytestmark = [pytest.mark.attack, pytest.mark.e2e]

logger = logging.getLogger(__name__)

Body = Callable[[int], tuple[str, dict[str, Any]]]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
CANARY = "xyzzy-of-a-caller"


def text(**options: Any) -> Body:
    return lambda number: (TEXT, {"prompt": f"permit {number}", "ignore_eos": True, **options})


def schema(number: int) -> dict[str, Any]:
    """As costly a schema as is taken, another for each number."""
    parts = {f"field_{number}_{part}": {"type": "string", "maxLength": 256} for part in range(80)}
    listed = {"type": "array", "maxItems": 256, "items": {}}
    return {"type": "object", "properties": {**parts, "list": listed}}


ATTACKS: dict[str, tuple[Body, int]] = {
    "schemas": (text(structured_outputs={"json": schema(0)}, max_tokens=64), 6),
    "another schema each time": (
        lambda number: (TEXT, {"prompt": "a", "structured_outputs": {"json": schema(number)}}),
        6,
    ),
    "best priority": (text(priority=0, max_tokens=300), 6),
    "many completions": (text(n=16, temperature=1, max_tokens=200), 4),
    "many prompts": (text(prompt=["permit"] * 16, max_tokens=200), 4),
    "streams": (text(stream=True, max_tokens=300), 64),
    "long prompts": (text(prompt="permit void " * 600, max_tokens=1), 8),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "grammar": (TEXT, {"structured_outputs": {"grammar": "root ::= " + "'a' | " * 8000 + "'b'"}}, "grammar"),
    "regex": (TEXT, {"structured_outputs": {"regex": "(a|b)" * 100_000}}, "regex"),
    "priority": (TEXT, {"priority": -(2**63)}, "priority"),
    "completions": (TEXT, {"n": 2000, "max_tokens": 200}, "n"),
    "prompts": (TEXT, {"prompt": ["a"] * 100}, "prompt"),
    "log probabilities": (TEXT, {"logprob_token_ids": [1]}, "logprob_token_ids"),
    "window": (TEXT, {"vllm_xargs": {"dear_window": 1}}, "vllm_xargs"),
}


@pytest.fixture(scope="module")
def mallory(server: Server) -> dict[str, str]:
    return new_tenant(server, "mallory")


@pytest.fixture(scope="module")
def victim(server: Server) -> Iterator[httpx.Client]:
    headers = new_tenant(server, "victim")
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as http:
        yield http


@contextmanager
def attack(server: Server, headers: dict[str, str], body: Body, callers: int) -> Iterator[None]:
    """So many callers send all the time; each of their requests is answered, or cut off at the end."""
    over = threading.Event()

    def send(first: int) -> set[int]:
        statuses, number = set(), first
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            while not over.is_set():
                number += callers
                path, asked = body(number)
                with http.stream("POST", path, json=asked | {"model": "legal"}) as reply:
                    statuses.add(reply.status_code)
                    for _ in reply.iter_raw():
                        if over.is_set():
                            break
        return statuses

    with ThreadPoolExecutor(callers) as pool:
        sent = [pool.submit(send, first) for first in range(callers)]
        time.sleep(2)
        try:
            yield
        finally:
            over.set()
    assert set().union(*(one.result() for one in sent)) == {200}


def longest_wait(victim: httpx.Client, requests: int = 8) -> float:
    """Seconds of the slowest of some requests, one after another."""
    waits = []
    for number in range(requests):
        started_s = time.monotonic()
        reply = victim.post("/v2/rerank", json=passages(int(started_s * 1e3) + number, 3))
        assert reply.status_code == 200, reply.text
        waits.append(time.monotonic() - started_s)
    return max(waits)


@pytest.fixture(scope="module")
def honest_s(server: Server, mallory: dict[str, str], victim: httpx.Client) -> float:
    """What a request takes beside honest load: eight callers who rank."""
    with attack(server, mallory, lambda number: ("/v2/rerank", passages(number)), 8):
        return longest_wait(victim)


@pytest.mark.parametrize("name", ATTACKS)
def test_another_tenants_request_is_answered_beside_an_attack(
    server: Server, mallory: dict[str, str], victim: httpx.Client, honest_s: float, name: str
) -> None:
    body, callers = ATTACKS[name]
    with attack(server, mallory, body, callers):
        wait_s = longest_wait(victim)
    logger.info("%s: %.2f s, beside honest load %.2f s: %.1fx", name, wait_s, honest_s, wait_s / honest_s)
    # The aim is 2x. Other load on two cores falls on one side alone; before, it was 7 to 223 s.
    assert wait_s < 4 * honest_s + 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_stall_the_engine_is_refused_at_once(
    server: Server, mallory: dict[str, str], name: str
) -> None:
    path, body, field = REFUSED[name]
    started_s = time.monotonic()
    reply = httpx.post(server.url + path, json={"prompt": "a", **body}, headers=mallory, timeout=60)
    assert reply.status_code == 400
    assert field in reply.json()["error"]["param"]
    assert len(reply.text) < 2000
    assert time.monotonic() - started_s < 1


def test_no_more_tokens_run_than_are_charged(server: Server) -> None:
    """Every way to write a limit that was charged as another."""
    limits: list[tuple[str, dict[str, Any]]] = [
        (
            CHAT,
            {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 1, "max_tokens": 99},
        ),
        (TEXT, {"prompt": "a", "max_tokens": "20"}),
        (TEXT, {"prompt": "a", "n": "5", "temperature": 1, "max_tokens": 5}),
        (TEXT, {"prompt": ["a"] * 16, "max_tokens": 5}),
        (TEXT, {"prompt": "a", "messages": [], "max_tokens": 30}),
        (TEXT, {"prompt": "a", "max_completion_tokens": 1, "max_tokens": 30}),
        (TEXT, {"prompt": "a"}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}]}),
    ]
    budget = 20_000
    headers = new_tenant(server, "frugal", "--tokens-per-minute", str(budget))
    left = budget
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as http:
        for path, body in limits:
            reply = http.post(path, json=body | {"ignore_eos": True, "model": "dear-tiny"})
            assert reply.status_code == 200, reply.text
            now_left = int(reply.headers["x-ratelimit-remaining-tokens"])
            assert left - now_left >= reply.json()["usage"]["total_tokens"], body
            left = now_left


def test_callers_texts_are_in_no_log(server: Server, mallory: dict[str, str]) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        (CHAT, {"messages": [{"role": "user", "content": [{"type": CANARY, "text": CANARY}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": CANARY}], "tool_choice": "auto"}),
        (CHAT, {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 4096}),
        (TEXT, {"prompt": CANARY, "bad_words": [" "]}),
        (TEXT, {"prompt": CANARY, "min_tokens": 50, "max_tokens": 1}),
        (TEXT, {"prompt": f"{CANARY} " * 3000}),
        (TEXT, {"prompt": "a", "structured_outputs": {"json": {"type": CANARY}}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"regex": CANARY}}),
        ("/v2/rerank", {"query": CANARY, "documents": [{CANARY: [[[[[[[[CANARY]]]]]]]]}]}),
        ("/v2/rerank", {"query": CANARY, "documents": [CANARY], "top_n": CANARY}),
    ]
    for path, body in wrong:
        reply = httpx.post(server.url + path, json=body, headers=mallory, timeout=60)
        assert reply.status_code == 400, (body, reply.text)
        assert len(reply.text) < 3000
    time.sleep(1)
    logs = [file for file in server.ray_logs().rglob("*") if file.is_file()]
    assert logs
    found = [str(file) for file in logs if CANARY in file.read_text(errors="replace")]
    assert found == []
    assert CANARY not in server.output()


def test_errors_of_the_engine_are_short(server: Server, mallory: dict[str, str]) -> None:
    asked = {"prompt": "permit void " * 3000, "max_tokens": 5}
    reply = httpx.post(server.url + TEXT, json=asked, headers=mallory, timeout=60)
    assert reply.status_code == 400
    assert len(json.loads(reply.text)["message"]) < 600


def test_a_reply_of_more_than_four_mebibytes_arrives(server: Server, mallory: dict[str, str]) -> None:
    asked = {"prompt": "a", "n": 16, "temperature": 1, "logprobs": 20, "max_tokens": 700, "ignore_eos": True}
    reply = httpx.post(server.url + TEXT, json=asked, headers=mallory, timeout=120)
    assert reply.status_code == 200, reply.text[:500]
    assert len(reply.content) > 4 * 1024 * 1024
