"""Who ranks: the real gateway over a fake engine, and orders that are known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import httpx
import pytest

from dear_client import AsyncClient, Repairs, RerankOptions, Retry
from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import create_app
from dear_tools.evaluation.collection import Candidate, Topic
from dear_tools.evaluation.rankers import FixedRanker, Ranker, ServerRanker, by_judgements, by_run
from dear_tools.evaluation.results import QueryResult
from dear_tools.evaluation.trec import Run
from dear_tools.exits import ToolError


def topic(name: str, *documents: str) -> Topic:
    return Topic(name, f"query {name}", tuple(Candidate(one, f"text of {one}") for one in documents))


TOPICS = [topic("q1", "a", "b", "c"), topic("q2", "d", "e"), topic("q3", "f", "g", "h")]


async def ranked(ranker: Ranker, topics: Sequence[Topic] = TOPICS) -> dict[str, QueryResult]:
    async with aclosing(ranker.rank(topics)) as answers:
        return {answer.query: answer async for answer in answers}


def in_process(gateway: GatewayState, options: RerankOptions) -> ServerRanker:
    transport = httpx.ASGITransport(create_app(gateway))
    return ServerRanker(lambda: AsyncClient("http://gateway", transport=transport), options)


def answering(handler: Callable[[httpx.Request], httpx.Response], concurrency: int = 1) -> ServerRanker:
    async def handle(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.005)
        return handler(request)

    def connect() -> AsyncClient:
        return AsyncClient("http://gateway", transport=httpx.MockTransport(handle), retry=Retry(attempts=1))

    return ServerRanker(connect, {}, concurrency)


def ranking(count: int) -> httpx.Response:
    results = [{"index": index, "relevance_score": 1 - index / 10} for index in range(count)]
    return httpx.Response(200, json={"results": results})


async def test_the_gateways_answers_are_kept_whole(gateway: GatewayState) -> None:
    answers = await ranked(in_process(gateway, {"model": "legal", "scoring": "permutation"}))
    first = answers["q1"]
    assert first.order == ("c", "b", "a")
    scores = [score for _, score in first.ranked]
    assert scores == sorted(scores, reverse=True)
    assert (first.windows, first.rounds, first.strategy, first.model) == (1, 1, "single", "legal")
    assert first.revision is not None
    assert first.revision.startswith("legal@")
    assert first.repairs == Repairs()
    assert first.prompt_tokens > 10
    assert first.wall_ms > 0
    assert {name: answer.order for name, answer in answers.items()} == {
        "q1": ("c", "b", "a"),
        "q2": ("e", "d"),
        "q3": ("h", "g", "f"),
    }


async def test_top_n_gives_so_many(gateway: GatewayState) -> None:
    answers = await ranked(in_process(gateway, {"top_n": 1}))
    assert [answers[name].order for name in ("q1", "q2", "q3")] == [("c",), ("e",), ("h",)]


async def test_a_model_that_is_not_there_ends_it(gateway: GatewayState) -> None:
    with pytest.raises(ToolError, match=r"^there is no model 'nope'$"):
        await ranked(in_process(gateway, {"model": "nope"}))


async def test_an_option_that_no_query_can_have_ends_it(gateway: GatewayState) -> None:
    with pytest.raises(ToolError, match="window_size"):
        await ranked(in_process(gateway, {"window_size": 1000}))


async def test_a_query_that_alone_is_refused_is_recorded(gateway: GatewayState) -> None:
    long = Topic("long", "x", (Candidate("d1", "word " * 100_000), Candidate("d2", "y")))
    answers = await ranked(in_process(gateway, {}), [long, *TOPICS])
    assert answers["long"].error is not None
    assert answers["long"].error.startswith("PayloadTooLarge: ")
    assert answers["q1"].order == ("c", "b", "a")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (401, {"message": "the key is expired"}, "the key is expired"),
        (503, {"message": "no engine can answer now"}, "no engine can answer now"),
    ],
)
async def test_what_will_not_change_ends_it_at_the_first(
    status: int, body: dict[str, str], sentence: str
) -> None:
    asked = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json=body)

    with pytest.raises(ToolError, match=f"^{sentence}$"):
        await ranked(answering(refuse))
    assert len(asked) == 1


async def test_a_server_that_goes_away_ends_it_after_as_many_as_run_at_once() -> None:
    asked = []

    def vanish(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) > 2:
            raise httpx.ConnectError("gone")
        return ranking(2)

    topics = [topic(f"q{number}", "a", "b") for number in range(20)]
    answers = []
    with pytest.raises(ToolError, match=r"^no server answers at http://gateway/v2/rerank: gone"):
        async with aclosing(answering(vanish, concurrency=3).rank(topics)) as all_answers:
            async for answer in all_answers:
                answers.append(answer)
    assert [answer.error is None for answer in answers] == [True, True, False, False]
    assert len(asked) < 10


async def test_faults_that_come_and_go_do_not_end_it() -> None:
    count = 0

    def stumble(request: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return httpx.Response(500, json={"message": "oops"}) if count == 1 else ranking(2)

    answers = await ranked(answering(stumble), [topic("q1", "a", "b"), topic("q2", "a", "b")])
    assert answers["q1"].error == "InternalError: oops"
    assert answers["q2"].order == ("a", "b")
    assert answers["q2"].repairs is None
    assert answers["q2"].windows is None


async def test_a_server_address_that_is_none_ends_it() -> None:
    ranker = ServerRanker(lambda: AsyncClient("localhost"), {})
    with pytest.raises(ToolError, match="'localhost' is no URL"):
        await ranked(ranker)


async def test_no_more_than_so_many_are_asked_at_once(gateway: GatewayState) -> None:
    running = most = 0
    app = create_app(gateway)

    class Counting(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await super().handle_async_request(request)
            finally:
                running -= 1

    ranker = ServerRanker(lambda: AsyncClient("http://gateway", transport=Counting(app)), {}, concurrency=2)
    assert len(await ranked(ranker, [topic(f"q{n}", "a", "b") for n in range(9)])) == 9
    assert most == 2


def test_settings_are_what_decides_answers_and_not_the_address() -> None:
    ranker = ServerRanker(lambda: AsyncClient("http://one"), {"model": "legal", "top_n": None}, 3)
    assert ranker.settings == {"ranker": "server", "model": "legal"}


async def test_the_oracle_goes_by_grade_and_then_by_the_first_stage() -> None:
    order = by_judgements({"q1": {"c": 2, "b": 1}, "q3": {"h": 1, "f": -1}})
    answers = await ranked(FixedRanker("oracle", order))
    assert [answers[name].order for name in ("q1", "q2", "q3")] == [
        ("c", "b", "a"),
        ("d", "e"),
        ("h", "g", "f"),
    ]
    assert answers["q1"].ranked[0][1] > answers["q1"].ranked[1][1]


async def test_a_run_of_the_same_candidates_can_be_measured() -> None:
    run = Run({"q1": ("b",), "q2": ("e", "d"), "q3": ("f", "g", "h")})
    answers = await ranked(FixedRanker("run.trec", by_run(run, "run.trec")))
    assert answers["q1"].order == ("b",)


@pytest.mark.parametrize(
    ("orders", "sentence"),
    [
        ({"q1": ("a",), "q2": ("d",)}, "run.trec has no query q3"),
        (
            {"q1": ("a", "x"), "q2": ("d",), "q3": ("f",)},
            "run.trec ranks documents of query q1 that are no candidates: x; "
            "to compare any two runs, give one of them with --against",
        ),
    ],
)
async def test_a_run_of_other_candidates_is_refused_before_the_first_answer(
    orders: dict[str, tuple[str, ...]], sentence: str
) -> None:
    answers = []
    with pytest.raises(ToolError) as error:
        async for answer in FixedRanker("run.trec", by_run(Run(orders), "run.trec")).rank(TOPICS):
            answers.append(answer)
    assert str(error.value) == sentence
    assert answers == []
