"""Many rerankings at once: in order, so many in flight, each failure in its place, nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dear_client import (
    AsyncClient,
    Client,
    ClientError,
    InvalidCall,
    InvalidRequest,
    Progress,
    Ranking,
    Retry,
    Timeout,
)
from dear_client.many import AHEAD
from tests.client.conftest import Connect
from tests.client.raw_server import Asked, RawServer, Script, failure, http, ranking
from tests.support.waiting import until

Serve = Callable[[Script], RawServer]

ONCE = Retry(attempts=1)


class Counting:
    """A script that answers after ``delay_s`` (of the request's number), and sees how many wait at once.

    The first ``together`` requests wait for each other.
    """

    def __init__(self, delay_s: Callable[[int], float] = lambda number: 0.005, together: int = 1) -> None:
        self.most = self.in_flight = self.answered = 0
        self._delay_s = delay_s
        self._first = threading.Barrier(together)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked, on: socket.socket) -> None:
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        body = asked.json()
        if asked.number < self._first.parties:
            self._first.wait(10)
        time.sleep(self._delay_s(int(body["query"].split()[1])))
        with self._lock:
            self.in_flight -= 1
            self.answered += 1
        if body["query"].endswith("fails"):
            on.sendall(http(failure(None, "it fails", "invalid_request_error"), 400))
        else:
            on.sendall(http(ranking(asked)))


def request(number: int, more: str = "", **options: Any) -> dict[str, Any]:
    return {"query": f"query {number}{more}", "documents": [f"{number}", "b", "c"], **options}


def which(ranked: Any) -> int:
    """The number of the request that a ranking answers."""
    assert isinstance(ranked, Ranking), ranked
    return int(ranked.documents[-1])


@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_rankings_come_in_order_and_so_many_are_in_flight(
    connect: Connect, serve: Serve, concurrency: int
) -> None:
    counting = Counting(lambda number: 0.002 * (number * 7 % 5), together=concurrency)
    client = connect(serve(counting).url)
    ranked = await client("rerank_many", map(request, range(40)), concurrency=concurrency)
    assert [which(one) for one in ranked] == list(range(40))
    assert counting.most == concurrency


@pytest.mark.parametrize("count", [0, 1])
async def test_few_are_as_good_as_many(connect: Connect, serve: Serve, count: int) -> None:
    ranked = await connect(serve(Counting()).url)("rerank_many", [request(n) for n in range(count)])
    assert [which(one) for one in ranked] == list(range(count))


MALFORMED: list[tuple[Any, str]] = [
    ({"documents": ["a"]}, "the request has no 'query'"),
    ({"query": "q"}, "the request has no 'documents'"),
    ({"query": "q", "documents": "text"}, "documents: a list is needed, not str"),
    ({"query": "q", "documents": 5}, "documents: a list is needed, not int"),
    ({"query": "q", "documents": [None]}, "documents.0: a text or an object is needed, not NoneType"),
    ({"query": None, "documents": ["a"]}, "query: a text is needed, not NoneType"),
    ({"query": "q", "documents": ["a"], "topn": 1}, "there is no option 'topn'; do you mean 'top_n'?"),
    ({"query": "q", "documents": ["a"], "self": 1}, "there is no option 'self'"),
    ({"query": "q", "documents": ["a"], 5: 1}, "there is no option 5"),
    ({"query": "q", "documents": ["a"], "top_n": "1"}, "top_n: it cannot be of type str"),
    ({"query": "q", "documents": ["a"], "priority": object()}, "the request cannot be written as JSON: "),
    (
        {"query": "q", "documents": [{"t": {1}}], "rank_fields": ["t"]},
        "the request cannot be written as JSON: ",
    ),
    (None, "a request is a dict, not NoneType"),
    ("query", "a request is a dict, not str"),
    (["q", ["a"]], "a request is a dict, not list"),
]


async def test_a_failure_takes_its_own_place(connect: Connect, serve: Serve) -> None:
    requests: list[Any] = []
    for number, (wrong, _) in enumerate(MALFORMED):
        requests += [request(3 * number), wrong, request(3 * number + 2, " fails")]
    told: list[Progress] = []
    client = connect(serve(Counting()).url)
    ranked = await client("rerank_many", requests, concurrency=4, progress=told.append)
    assert len(ranked) == len(requests)
    for number, (_, message) in enumerate(MALFORMED):
        good, malformed, refused = ranked[3 * number : 3 * number + 3]
        assert which(good) == 3 * number
        assert type(malformed) is InvalidCall
        assert str(malformed).startswith(message)
        assert type(refused) is InvalidRequest
        assert str(refused) == "it fails"
    assert [one.done for one in told] == list(range(1, len(requests) + 1))
    assert told[-1] == Progress(done=len(requests), failed=2 * len(MALFORMED))
    assert all(later.failed >= earlier.failed for earlier, later in itertools.pairwise(told))


async def test_requests_are_read_a_little_ahead(connect: Connect, serve: Serve) -> None:
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield request(read - 1)

    client = connect(serve(Counting()).url)
    ranked = client.iterate(endless(), concurrency=3)
    for number in range(30):
        assert which(await anext(ranked)) == number
        assert read <= number + 1 + AHEAD * 3
    await ranked.aclose()


def test_a_slow_source_does_not_hold_back_what_was_begun(serve: Serve) -> None:
    counting = Counting(lambda number: 0.0)
    answered_before_the_last: list[int] = []

    def slow() -> Iterator[dict[str, Any]]:
        for number in range(6):
            time.sleep(0.05)
            if number == 5:
                answered_before_the_last.append(counting.answered)
            yield request(number)

    with Client(serve(counting).url) as client:
        ranked = client.rerank_many(slow(), concurrency=8)
    assert [which(one) for one in ranked] == list(range(6))
    assert answered_before_the_last[0] >= 1


async def test_closing_early_leaves_nothing_running(connect: Connect, serve: Serve) -> None:
    counting = Counting(lambda number: 0.05)
    server = serve(counting)
    client = connect(server.url)
    ranked = client.iterate(map(request, range(1000)), concurrency=4)
    assert which(await anext(ranked)) == 0
    await ranked.aclose()
    await quiet(server, counting)
    assert len(server.asked) <= 12


async def test_closing_early_does_not_wait_for_a_retry(connect: Connect, serve: Serve) -> None:
    """Those that the server told to come back in a minute are not waited for."""

    def script(asked: Asked, on: socket.socket) -> None:
        first = asked.json()["query"] == "query 0"
        on.sendall(
            http(ranking(asked)) if first else http(failure("overloaded", "no"), 429, retry_after="60")
        )

    client = connect(serve(script).url)
    ranked = client.iterate(map(request, range(100)), concurrency=4)
    started_s = time.monotonic()
    assert which(await anext(ranked)) == 0
    await asyncio.sleep(0.1)
    await ranked.aclose()
    assert time.monotonic() - started_s < 2


async def quiet(server: RawServer, counting: Counting) -> None:
    """Return once nothing is asked any more; fail where that goes on."""
    async with asyncio.timeout(5):
        before = -1
        while counting.in_flight or before != len(server.asked):
            before = len(server.asked)
            await asyncio.sleep(0.15)
    ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert [task for task in ours if "rerank_iter" in repr(task)] == []


@pytest.mark.parametrize("how", ["break", "raise"])
async def test_a_loop_that_is_left_on_asyncio_leaves_nothing_running(serve: Serve, how: str) -> None:
    counting = Counting(lambda number: 0.05)
    server = serve(counting)
    async with AsyncClient(server.url) as client:
        with pytest.raises(RuntimeError, match="consumer's"):
            async for _ in client.rerank_iter(map(request, range(1000)), concurrency=4):
                if how == "break":
                    break
                raise RuntimeError("the consumer's")
            raise RuntimeError("as if the consumer's")
        await quiet(server, counting)
    assert len(server.asked) <= 12


@pytest.mark.parametrize("how", ["break", "raise"])
def test_a_blocking_loop_that_is_left_leaves_nothing_running(serve: Serve, how: str) -> None:
    counting = Counting(lambda number: 0.05)
    server = serve(counting)
    with Client(server.url) as client:
        with pytest.raises(RuntimeError, match="consumer's"):
            for _ in client.rerank_iter(map(request, range(1000)), concurrency=4):
                if how == "break":
                    break
                raise RuntimeError("the consumer's")
            raise RuntimeError("as if the consumer's")
        time.sleep(0.01)
        assert counting.in_flight == 0
        assert not any(one.name.startswith("dear-client") for one in threading.enumerate())
    assert len(server.asked) <= 12


async def test_cancelling_rerank_many_on_asyncio_ends_its_requests(serve: Serve) -> None:
    counting = Counting(lambda number: 0.5, together=4)
    server = serve(counting)
    async with AsyncClient(server.url) as client:
        many = asyncio.create_task(client.rerank_many(map(request, range(100)), concurrency=4))
        await until(lambda: counting.in_flight == 4)
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
        await quiet(server, counting)
    assert len(server.asked) == 4


async def test_a_source_that_raises_ends_the_run_with_its_error(connect: Connect, serve: Serve) -> None:
    counting = Counting()
    server = serve(counting)

    def broken() -> Iterator[dict[str, Any]]:
        for number in range(10):
            yield request(number)
        raise LookupError("line 11 is no JSON")

    client = connect(server.url)
    with pytest.raises(LookupError, match="line 11 is no JSON"):
        await client("rerank_many", broken(), concurrency=2)
    await quiet(server, counting)


async def test_a_progress_that_raises_ends_the_run_with_its_error(connect: Connect, serve: Serve) -> None:
    def tell(progress: Progress) -> None:
        if progress.done == 5:
            raise ArithmeticError("the display broke")

    client = connect(serve(Counting()).url)
    with pytest.raises(ArithmeticError, match="the display broke"):
        await client("rerank_many", map(request, range(50)), concurrency=2, progress=tell)


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_no_concurrency_is_refused(connect: Connect, concurrency: int) -> None:
    with pytest.raises(InvalidCall, match=f"concurrency: {concurrency} is below 1"):
        await connect("http://127.0.0.1:9")("rerank_many", [request(0)], concurrency=concurrency)


async def test_a_server_that_goes_away_half_way_fails_the_rest_one_by_one(
    connect: Connect, serve: Serve
) -> None:
    def script(asked: Asked, on: socket.socket) -> bool | None:
        if asked.number < 5:
            on.sendall(http(ranking(asked)))
            return None
        return False

    client = connect(serve(script).url, retry=ONCE)
    ranked = await client("rerank_many", map(request, range(12)), concurrency=1)
    assert [which(one) for one in ranked[:5]] == list(range(5))
    assert {type(one).__name__ for one in ranked[5:]} == {"ConnectionFailed"}
    assert len({one.request_id for one in ranked[5:]}) == 7


@pytest.mark.integration
async def test_every_request_has_a_time_of_its_own(connect: Connect, serve: Serve) -> None:
    """The total is a call's, not the run's."""
    client = connect(serve(Counting(lambda number: 0.1)).url, timeout=Timeout(total_s=0.35))
    ranked = await client("rerank_many", map(request, range(8)), concurrency=1)
    assert not [one for one in ranked if isinstance(one, ClientError)]
