"""The server that clients are measured by, and how the measure is taken."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.client_overhead import measure, overhead_ms, paired, throughput, trivial_server
from dear_client import Client, Overloaded, Ranking, Retry, UnknownRoute

ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with trivial_server() as url:
        yield url


def test_the_trivial_server_answers_as_the_real_one(url: str) -> None:
    documents = [f"passage {number}" for number in range(30)]
    with Client(url) as client:
        for top_n, shown in ((None, 30), (0, 30), (4, 4), (99, 30)):
            ranking = client.rerank("q", documents, top_n=top_n, request_id="mine")
            assert ranking.order == tuple(range(30))[::-1][:shown]
            assert (ranking.id, ranking.model) == ("mine", "trivial")
            assert ranking.details is not None
        assert client.rerank("q", ["日本語"]).id is not None
        assert [model.id for model in client.models()] == ["trivial"]
        client.ready()
        client.health()


def test_the_trivial_server_refuses_what_is_no_request(url: str) -> None:
    for content in (b"[1", b"[]", b"{}", b'{"documents": 5}', b'{"documents": ["a"], "top_n": "x"}', b""):
        assert httpx.post(f"{url}/v2/rerank", content=content).status_code == 400
    with Client(f"{url}/elsewhere") as client, pytest.raises(UnknownRoute):
        client.ready()


def test_requests_in_one_packet_and_in_many_are_answered(url: str) -> None:
    import socket

    body = b'{"query": "q", "documents": ["a", "b"]}'
    one = b"POST /v2/rerank HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as on:
        on.settimeout(5)
        on.sendall(one + one)
        for byte in one:
            on.sendall(bytes([byte]))
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 3 or not received.endswith(b"}}}"):
            received += on.recv(65536)


@pytest.mark.parametrize(("share", "refused"), [("0.25", 5), ("1", 20), ("0", 0)])
def test_a_share_is_refused_as_overload(share: str, refused: int) -> None:
    with trivial_server("--overload-share", share) as url, Client(url, retry=ONCE) as client:
        ranked = client.rerank_many([{"query": "q", "documents": ["a"]}] * 20, concurrency=4)
    overloaded = [one for one in ranked if isinstance(one, Overloaded)]
    assert len(overloaded) == refused
    assert {one.retry_after_s for one in overloaded} <= {1.0}
    assert sum(isinstance(one, Ranking) for one in ranked) == 20 - refused


def test_answers_are_held_back_beside_each_other() -> None:
    with trivial_server("--delay-ms", "400") as url, Client(url) as client:
        client.rerank("q", ["a"])
        started_s = time.monotonic()
        client.rerank_many([{"query": "q", "documents": ["a"]}] * 8, concurrency=8)
        took_s = time.monotonic() - started_s
        assert 0.4 <= took_s < 2
        started_s = time.monotonic()
        client.ready()
        assert time.monotonic() - started_s < 0.4


def test_pairs_take_turns() -> None:
    turns: list[str] = []
    times = paired(lambda: turns.append("httpx"), lambda: turns.append("client"), 3)
    assert len(times) == 3
    assert turns[-6:] == ["httpx", "client", "client", "httpx", "httpx", "client"]


def test_figures_are_medians_of_pairs() -> None:
    times = [(0.010, 0.011), (0.020, 0.026), (0.030, 0.033)]
    assert overhead_ms(times) == {"httpx_ms": 20.0, "client_ms": 26.0, "overhead_ms": 3.0}
    assert throughput(times, 100) == {"httpx_per_s": 5000.0, "client_per_s": 3846.2, "ratio": 0.909}


@pytest.mark.integration
def test_everything_is_measured() -> None:
    figures = measure(calls=2, requests=4, pairs=1)
    assert {name: sorted(found) for name, found in figures.items()} == {
        "one_call": ["asyncio", "blocking"],
        "rerank_many_answered_at_once": ["asyncio", "blocking"],
        "rerank_many_answered_after_20_ms": ["asyncio", "blocking"],
    }
