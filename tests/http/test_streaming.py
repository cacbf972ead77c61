"""Streamed rankings: an event a rank, then the reply, read as a browser would read them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from dear_serving.errors import EngineUnavailable
from dear_serving.gateway.state import GatewayState
from dear_serving.http.app import create_app
from dear_serving.protocol import DecodedWindow, OpenAIRequest, PermutationRequest
from tests.conftest import LEGAL, client_of, with_rerank
from tests.support.fake_engine import FakeEngine

DOCUMENTS = ["alpha", "beta", "gamma", "delta"]
BODY = {"model": "legal", "query": "which letter?", "documents": DOCUMENTS}
Event = tuple[str | None, Any]


def streamed(body: dict[str, Any] = BODY, **options: object) -> dict[str, Any]:
    return body | {"dear": options | {"stream": True}}


def many(count: int) -> dict[str, Any]:
    return BODY | {"documents": [f"passage {number}" for number in range(count)]}


def events_of(text: str) -> list[Event]:
    """Server-sent events as the HTML standard parses them: (event, data), data as JSON but for [DONE]."""
    assert text.endswith("\n\n")
    events: list[Event] = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(fields) <= {"event", "data"}
        data = fields["data"]
        events.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return events


async def stream(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[list[Any], Any]:
    """The rank events' data and the ranking's, of a stream that ends well."""
    reply = await http.post("/v2/rerank", json=body)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    *ranks, ranking, done = events_of(reply.text)
    assert {name for name, _ in ranks} <= {"rank"}
    assert ranking[0] == "ranking"
    assert done == (None, "[DONE]")
    return [data for _, data in ranks], ranking[1]


async def replied(http: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    """The reply to the same request without a stream."""
    options = body["dear"] | {"stream": False}
    reply = await http.post("/v2/rerank", json=body | {"dear": options})
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_the_last_event_says_how_sure_each_rank_is(http: httpx.AsyncClient) -> None:
    ranks, ranking = await stream(http, streamed(confidence=True))
    assert "confidence" not in ranks[0]  # sent before the last window was read
    assert [one["certified"] for one in ranking["results"]] == [True] * 4


def without_times(reply: Any) -> Any:
    """A reply without what no two requests share."""
    dear = {name: value for name, value in reply["meta"]["dear"].items() if not name.endswith("_ms")}
    return reply | {"id": "", "meta": reply["meta"] | {"dear": dear}}


CASES = [
    *(
        streamed(many(25), strategy=name)
        for name in ("auto", "single", "sliding", "merge2", "joint", "tourrank")
    ),
    streamed(),
    streamed(many(25), strategy="sliding", window_size=5),
    streamed(many(25), strategy="sliding", passes=2),
    streamed(scoring="generate"),
    streamed(scoring="first_token"),
    streamed(reasoning=True),
    streamed(deadline_ms=60_000),
    streamed(many(25) | {"top_n": 3}, strategy="sliding"),
    streamed(BODY | {"top_n": 2, "return_documents": True}),
    streamed(BODY | {"documents": ["alone"]}),
]


@pytest.mark.parametrize("body", CASES, ids=lambda body: f"{len(body['documents'])} {body['dear']}")
async def test_rank_events_and_then_the_reply_of_the_same_request_without_a_stream(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    ranks, ranking = await stream(http, body)
    plain = await replied(http, body)
    assert without_times(ranking) == without_times(plain)
    assert ranks == [{"rank": rank} | result for rank, result in enumerate(plain["results"])]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v1/v2/rerank"])
async def test_every_path_streams(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.post(path, json=streamed())
    assert [name for name, _ in events_of(reply.text)] == ["rank"] * 4 + ["ranking", None]
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    ranking = events_of(reply.text)[-2][1]
    assert ranking["id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(("top_n", "shown"), [(None, 4), (0, 4), (1, 1), (2, 2), (99, 4)])
async def test_top_n_limits_rank_events(http: httpx.AsyncClient, top_n: int | None, shown: int) -> None:
    ranks, ranking = await stream(http, streamed(BODY | {"top_n": top_n}))
    assert [(event["rank"], event["index"]) for event in ranks] == [(n, 3 - n) for n in range(shown)]
    assert len(ranking["results"]) == shown


async def test_documents_come_with_their_rank(http: httpx.AsyncClient) -> None:
    documents = ["plain", {"text": "rich", "url": "https://example.org"}]
    for wanted in (True, False, None):
        body = BODY | {"documents": documents, "return_documents": wanted}
        ranks, _ = await stream(http, streamed(body))
        found = [event.get("document") for event in ranks]
        assert found == ([documents[1], {"text": "plain"}] if wanted else [None, None])


async def test_line_breaks_and_other_scripts_stay_within_their_event(http: httpx.AsyncClient) -> None:
    documents = ["a\n\ndata: [DONE]\n\n", "b\r\nevent: error\r\r", "日本語 🙂\u2028\x85"]
    ranks, _ = await stream(http, streamed(BODY | {"documents": documents, "return_documents": True}))
    assert [event["document"]["text"] for event in ranks] == documents[::-1]


async def test_a_deadlines_warning_is_in_the_ranking(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.decides = 1
    ranks, ranking = await stream(http, streamed(deadline_ms=60_000))
    assert [event["index"] for event in ranks] == [3, 2, 1, 0]
    assert "3 ranks were not decided" in ranking["meta"]["warnings"][0]


async def test_a_streamed_ranking_is_counted(http: httpx.AsyncClient) -> None:
    await stream(http, streamed())
    text = (await http.get("/metrics")).text
    assert f'dear_windows_total{{revision="{LEGAL}",tenant="default"}} 1.0' in text
    assert 'dear_requests_total{route="/v2/rerank",status="200"} 1.0' in text


# Errors.


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"dear": {"stream": True, "strategy": "magic"}}, 400, "dear.strategy"),
        ({"dear": {"stream": True, "window_size": 5, "step": 6}}, 400, "dear.step"),
        ({"dear": {"stream": True, "reasoning": True, "scoring": "generate"}}, 400, "dear.reasoning"),
        ({"dear": {"stream": True}, "documents": []}, 400, "documents"),
        ({"dear": {"stream": True}, "model": "nobody"}, 404, "model"),
    ],
)
async def test_a_wrong_request_is_a_plain_error(
    http: httpx.AsyncClient, change: dict[str, object], status: int, param: str
) -> None:
    reply = await http.post("/v2/rerank", json=BODY | change)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


async def test_an_error_before_the_first_event_is_a_plain_error(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.dead = True
    reply = await http.post("/v2/rerank", json=streamed())
    assert reply.status_code == 503
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["type"] == "service_unavailable"


async def test_a_deadline_before_the_first_event_is_a_504(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.delay_s = 30
    reply = await http.post("/v2/rerank", json=streamed(deadline_ms=30))
    assert (reply.status_code, reply.json()["error"]["param"]) == (504, "dear.deadline_ms")
    assert engine.cancelled == 1


class Telling(FakeEngine):
    """Tells one rank of a window, does ``then``, tells another, and does it again."""

    then: Callable[[], Any]

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine.write, engine.prefer)
        self.ended = False
        self.closed = asyncio.Event()

    async def permute_stream(self, request: PermutationRequest) -> AsyncGenerator[DecodedWindow, None]:
        self.requests.append(request)
        try:
            for decided in (1, 2):
                yield self._window(request, decided)
                await self.then()
            yield self._window(request, request.needed)
            self.ended = True
        finally:
            self.closed.set()


@pytest.fixture
def telling(engine: FakeEngine) -> Telling:
    return Telling(engine)


@pytest.fixture
def over(gateway: GatewayState, telling: Telling) -> GatewayState:
    return with_rerank(gateway, engine=telling)


async def test_an_error_after_the_first_event_is_an_error_event(over: GatewayState, telling: Telling) -> None:
    async def fail() -> None:
        raise EngineUnavailable("the engine is restarting", retry_after_s=5.0)

    telling.then = fail
    async with client_of(over) as http:
        reply = await http.post("/v2/rerank", json=streamed())
    assert reply.status_code == 200
    (rank, error) = events_of(reply.text)
    assert rank[0] == "rank"
    assert rank[1]["index"] == 3
    assert error[0] == "error"
    assert error[1]["error"]["type"] == "service_unavailable"
    assert error[1]["message"] == error[1]["detail"] == "the engine is restarting"
    assert telling.closed.is_set()
    assert over.admission.in_flight == 0


class Caller:
    """A server's side of one request: sees each event when it is sent, and may leave."""

    def __init__(
        self, gateway: GatewayState, body: dict[str, Any], spec_version: str, path: str = "/v2/rerank"
    ) -> None:
        self._body = json.dumps(body).encode()
        self._given = False
        self._left = asyncio.Event()
        self._sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "server": ("gateway", 80),
            "client": ("caller", 1),
        }
        self.task = asyncio.create_task(create_app(gateway)(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._left.is_set():
            raise OSError("the caller left")
        await self._sent.put(message)

    async def event(self) -> Event:
        """The next event."""
        async with asyncio.timeout(5):
            while True:
                message = await self._sent.get()
                if message["type"] == "http.response.body" and message["body"]:
                    (event,) = events_of(message["body"].decode())
                    return event

    def leave(self) -> None:
        self._left.set()


versions = pytest.mark.parametrize("spec_version", ["2.3", "2.4"])  # from 2.4 on, sending fails instead


@versions
async def test_a_rank_is_sent_as_soon_as_it_is_decided(
    over: GatewayState, telling: Telling, spec_version: str
) -> None:
    go_on = asyncio.Event()
    telling.then = go_on.wait
    caller = Caller(over, streamed(), spec_version)
    name, data = await caller.event()
    assert (name, data["rank"], data["index"]) == ("rank", 0, 3)
    assert over.admission.in_flight == 1
    go_on.set()
    rest = [await caller.event() for _ in range(5)]
    assert [name for name, _ in rest] == ["rank"] * 3 + ["ranking", None]
    await caller.task
    assert over.admission.in_flight == 0


async def test_leaving_while_the_engine_works_ends_its_work(over: GatewayState, telling: Telling) -> None:
    telling.then = asyncio.Event().wait
    caller = Caller(over, streamed(), "2.3")
    await caller.event()
    caller.leave()
    async with asyncio.timeout(5):
        await caller.task
        await telling.closed.wait()
    assert not telling.ended
    assert over.admission.in_flight == 0


async def test_a_server_that_cancels_the_request_ends_the_engines_work(
    over: GatewayState, telling: Telling
) -> None:
    """As Ray's proxy does when its caller leaves."""
    telling.then = asyncio.Event().wait
    caller = Caller(over, streamed(), "2.4")
    await caller.event()
    caller.task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await caller.task
        await telling.closed.wait()
    assert not telling.ended
    assert over.admission.in_flight == 0


async def test_leaving_before_the_first_event_ends_the_engines_work(
    gateway: GatewayState, engine: FakeEngine
) -> None:
    engine.delay_s = 30
    caller = Caller(gateway, streamed(), "2.4")
    await asyncio.sleep(0.2)
    assert len(engine.requests) == 1
    caller.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller.task
    await asyncio.sleep(0)
    assert (engine.cancelled, engine.finished) == (1, 0)
    assert gateway.admission.in_flight == 0


@versions
async def test_a_caller_who_left_unnoticed_ends_the_work_at_the_next_event(
    over: GatewayState, telling: Telling, spec_version: str
) -> None:
    go_on = asyncio.Event()
    waits = iter([go_on.wait(), asyncio.Event().wait()])  # the second rank comes, the rest never
    telling.then = lambda: next(waits)
    caller = Caller(over, streamed(), spec_version)
    await caller.event()
    caller.leave()
    go_on.set()
    await asyncio.wait({caller.task}, timeout=5)
    assert caller.task.done()
    caller.task.exception()  # what the server makes of it is no matter here
    async with asyncio.timeout(5):
        await telling.closed.wait()
    assert not telling.ended
    assert over.admission.in_flight == 0


class Chatting(FakeEngine):
    """Sends one event of a chat, then none for a minute."""

    closed = False

    async def openai(self, request: OpenAIRequest) -> AsyncGenerator[str | dict[str, Any], None]:
        try:
            yield 'data: {"choices": []}\n\n'
            await asyncio.sleep(60)
        finally:
            self.closed = True


@versions
async def test_leaving_a_streamed_chat_ends_the_engines_work(
    gateway: GatewayState, engine: FakeEngine, spec_version: str
) -> None:
    chatting = Chatting(engine.write)
    state = dataclasses.replace(gateway, openai=dataclasses.replace(gateway.openai, engine=chatting))
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    caller = Caller(state, body, spec_version, "/v1/chat/completions")
    assert await caller.event() == (None, {"choices": []})
    if spec_version == "2.3":
        caller.leave()
        await caller.task
    else:
        caller.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.task
    await asyncio.sleep(0)
    assert chatting.closed
    assert gateway.admission.in_flight == 0
