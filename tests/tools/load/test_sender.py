"""What becomes of one request, whatever the server does with it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from dear_serving.process.background import free_port
from dear_tools.load.mix import Tenant
from dear_tools.load.records import Record
from tests.tools.load.runs import outcome_of, record_of, schedule
from tests.tools.load.servers import Asked, always, ranking, ranks, raw, refusal, reply, says, scripted

HTML = "<!doctype html><html><body><h1>It works!</h1></body></html>"
HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


async def test_an_answer_is_ok_and_brings_what_the_server_says_it_took() -> None:
    with scripted() as served:
        found = await record_of(served.url, top_n=None, lists=None)
    assert (found.result, found.status, found.message, found.passages) == ("ok", 200, None, 4)
    assert (found.prompt_tokens, found.completion_tokens) == (100, 10)
    assert (found.windows, found.repairs, found.queue_ms, found.engine_ms) == (2, 1, 3.0, 5.0)
    assert 0 <= found.intended_s <= found.sent_s <= found.done_s


async def test_a_request_is_what_the_client_sends_with_the_tenants_key_and_the_options() -> None:
    with scripted() as served:
        found = await record_of(
            served.url, tenants=(Tenant("acme", "dear_key"),), models=("legal",), top_n=4, strategy="single"
        )
    (asked,) = served.rankings
    assert asked.headers["authorization"] == "Bearer dear_key"
    assert asked.headers["user-agent"].startswith("dear-client/")
    assert asked.body["model"] == "legal"
    assert asked.body["top_n"] == 4
    assert asked.body["dear"] == {"strategy": "single"}
    assert (found.tenant, found.model) == ("acme", "legal")


async def test_a_server_of_another_kind_that_ranks_has_no_times_of_its_own() -> None:
    body = {"results": [{"index": i, "relevance_score": 1 - i / 10} for i in range(4)]}
    with scripted(always(reply(200, body))) as served:
        found = await record_of(served.url)
    assert (found.result, found.windows, found.prompt_tokens) == ("ok", 0, 0)


ANSWERS = {
    "invalid: one twice": (ranking([0, 1, 1, 2]), "invalid", None, "is no permutation of 4 documents"),
    "invalid: one missing": (ranking([0, 1, 2]), "invalid", None, "ranks 3 documents instead of 4"),
    "invalid: one too many": (ranking([0, 1, 2, 3, 0]), "invalid", None, "is no permutation of 4"),
    "invalid: out of range": (ranking([0, 1, 2, 4]), "invalid", None, "none of the 4"),
    "invalid: below 0": (ranking([0, 1, 2, -1]), "invalid", None, "is no permutation of 4 documents"),
    "400": (reply(400, {"message": "top_n: no"}), "failed", 400, "top_n: no"),
    "401": (reply(401, {"error": {"message": "the API key has expired"}}), "failed", 401, "has expired"),
    "404": (reply(404, {"message": "there is no model 'x'"}), "failed", 404, "there is no model 'x'"),
    "429": (refusal(), "refused", 429, "too much work ahead"),
    "500": (reply(500, {"message": "oh"}), "failed", 500, "oh"),
    "500 as HTML": (reply(500, HTML, content_type="text/html"), "failed", 500, "without a reason"),
    "502 as HTML": (reply(502, HTML, content_type="text/html"), "failed", 502, "without a reason"),
    "503": (refusal(503), "unavailable", 503, "too much work ahead"),
    "504": (reply(504, {"message": "the deadline passed"}), "late", 504, "the deadline passed"),
    "HTML": (
        reply(200, HTML, content_type="text/html"),
        "failed",
        None,
        "with text/html instead of JSON, so this is probably another server's address",
    ),
    "another JSON": (reply(200, {"hello": "world"}), "failed", None, 'the reply has no "results"'),
    "a list": (reply(200, [1, 2]), "failed", None, "with JSON that is no object: [1,2]"),
    "results of another kind": (
        reply(200, {"results": [{"score": 1}] * 4}),
        "failed",
        None,
        "the reply is no ranking of 4 documents",
    ),
    "a redirect": (
        reply(307, "", location="http://elsewhere.invalid/"),
        "failed",
        None,
        "leads to http://elsewhere.invalid/",
    ),
    "gzip that is none": (
        reply(200, "plain", content_encoding="gzip"),
        "failed",
        None,
        "answered what cannot be decompressed",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_has_its_result_and_one_sentence(name: str) -> None:
    answer, result, status, sentence = ANSWERS[name]
    with scripted(always(answer)) as served:
        found = await record_of(served.url)
    assert (found.result, found.status) == (result, status)
    assert found.message is not None
    assert sentence.replace(" ", "") in found.message.replace(" ", "")
    assert "\n" not in found.message
    assert found.windows == 0
    assert len(served.rankings) == 1


async def test_a_compressed_answer_is_read() -> None:
    data = gzip.compress(ranking(range(4)).partition(b"\r\n\r\n")[2])
    head = f"{HEAD}content-encoding: gzip\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    with scripted(always(head + data)) as served:
        assert (await record_of(served.url)).result == "ok"


BROKEN = {
    "cut half-way": (
        f'{HEAD}content-length: 500\r\n\r\n{{"results": [',
        "the connection to {url} broke half-way: 13 of 500 bytes of the reply came",
    ),
    "cut between chunks": (
        f"{HEAD}transfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        "the connection to {url} broke half-way: 5 bytes of the reply came",
    ),
    "nothing": ("", "the connection to {url} broke before it answered: the server closed it"),
    "half a head": (
        "HTTP/1.1 200 OK\r\ncont",
        "the connection to {url} broke before it answered: the server closed it",
    ),
    "another protocol": (
        "SSH-2.0-OpenSSH\r\n\r\n",
        "the connection to {url} broke before it answered: bad status line",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_connection_that_breaks_is_unavailable_and_says_how(name: str) -> None:
    data, sentence = BROKEN[name]
    with raw(says(data.encode())) as url:
        found = await record_of(url)
        assert found.message == sentence.format(url=f"{url}/v2/rerank")
    assert (found.result, found.status) == ("unavailable", None)


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "connection refused"), ("localhost", "connection refused"), ("no.invalid", "not known")],
)
async def test_a_server_that_is_not_there_is_unavailable(host: str, reason: str) -> None:
    url = f"http://{host}:{free_port()}"
    found = await record_of(url)
    assert (found.result, found.status) == ("unavailable", None)
    assert (found.message or "").startswith(f"no server answers at {url}/v2/rerank: ")
    assert reason in (found.message or "")
    assert "[" not in (found.message or "")


async def test_https_to_a_server_without_it_says_so_in_a_sentence() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(refusal(400))

    with raw(plain) as url:
        found = await record_of(url.replace("http:", "https:"))
    assert found.result == "unavailable"
    assert "ssl" in (found.message or "")


async def test_a_server_that_never_answers_is_late_after_the_timeout() -> None:
    async def silent(asked: Asked) -> bytes:
        await asyncio.sleep(3)
        return b""

    with scripted(silent) as served:
        started_s = time.perf_counter()
        found = await record_of(served.url, answer_s=0.3)
        assert time.perf_counter() - started_s < 2.5
    assert (found.result, found.message) == ("late", f"no answer from {served.url}/v2/rerank within 0.3 s")
    assert found.latency_s >= 0.3


async def test_an_answer_that_trickles_in_is_late_when_the_time_is_over() -> None:
    async def trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"{HEAD}content-length: 1000\r\n\r\n".encode())
            for _ in range(20):
                writer.write(b" ")
                await asyncio.sleep(0.1)

    with raw(trickles) as url:
        found = await record_of(url, answer_s=0.4)
    assert found.result == "late"
    assert 0.4 <= found.latency_s < 1.9


@pytest.mark.parametrize(
    "message",
    ["two\nlines\r\nand a tab\t", "\x1b[31mred\x1b[0m", "x" * 100_000, "\u2028\u0000a\u202eb"],
    ids=["lines", "terminal codes", "long", "unprintable"],
)
async def test_what_a_server_says_becomes_one_short_printable_line(message: str) -> None:
    with scripted(always(reply(500, {"message": message}))) as served:
        found = await record_of(served.url)
    assert found.message is not None
    assert found.message.isprintable()
    assert len(found.message) <= 303


async def test_times_that_are_no_numbers_do_not_get_into_the_figures() -> None:
    answer = ranking(range(4)).replace(b"3.0", b"NaN").replace(b"5.0", b"Infinity".ljust(8))
    data = answer.partition(b"\r\n\r\n")[2]
    answer = f"{HEAD}content-length: {len(data)}\r\n\r\n".encode() + data
    with scripted(always(answer)) as served:
        found = await record_of(served.url)
    assert (found.result, found.queue_ms, found.engine_ms) == ("ok", 0.0, 0.0)


# --- refusals and Retry-After -------------------------------------------------------------------------


def after(refusals: int, answer: bytes) -> object:
    left = iter([answer] * refusals)

    async def respond(asked: Asked) -> bytes:
        return next(left, None) or await ranks(asked)

    return respond


def date_in(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.integration
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["0.3", "date", None])
async def test_a_retry_waits_at_least_what_retry_after_asks_for(status: int, asked: str | None) -> None:
    value = date_in(2) if asked == "date" else asked
    answer = refusal(status, **({} if value is None else {"Retry_After": value}))
    with scripted(after(1, answer)) as served:
        found = await record_of(served.url, attempts=3)
    first, second = served.rankings
    waited_s = second.at_s - first.at_s
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    assert (found.result, found.refusals, found.named) == ("ok", 1, int(asked is not None))
    (retry,) = found.retried
    assert (retry.status, retry.was_let_in) == (status, True)
    assert retry.waited_s == pytest.approx(waited_s, abs=0.2)
    if asked is None:
        assert retry.asked_s is None
        assert waited_s >= 0.05
    else:
        assert retry.asked_s is not None
        least_s = 0.3 if asked == "0.3" else 0.9  # HTTP's dates have whole seconds
        assert waited_s >= max(retry.asked_s - 0.01, least_s)
        assert found.latency_s >= least_s


async def test_a_request_that_is_refused_to_the_end_is_refused_and_its_retries_were_not_let_in() -> None:
    with scripted(always(refusal(retry_after="0.1"))) as served:
        found = await record_of(served.url, attempts=3)
    assert len(served.rankings) == 3
    assert (found.result, found.status, found.refusals, found.named) == ("refused", 429, 3, 3)
    assert found.retry_after_s == pytest.approx(0.1)
    assert [retry.was_let_in for retry in found.retried] == [False, False]
    assert all(retry.waited_s >= 0.1 for retry in found.retried)


@pytest.mark.parametrize("value", ["soon", "", "-5", "nan", "inf", "Wed, 99 Foo 2026"])
async def test_a_retry_after_that_nobody_can_read_is_none(value: str) -> None:
    with scripted(always(refusal(retry_after=value))) as served:
        found = await record_of(served.url)
    assert found.result == "refused"
    assert found.retry_after_s in (None, 0.0)


async def test_one_attempt_is_one_request_and_no_retry() -> None:
    with scripted(always(refusal(retry_after="1"))) as served:
        found = await record_of(served.url, attempts=1)
    assert len(served.rankings) == 1
    assert (found.refusals, found.named, found.retried) == (1, 1, ())
    assert found.latency_s < 1


async def test_a_wait_that_would_outlast_the_call_is_not_begun() -> None:
    with scripted(always(refusal(retry_after="3600"))) as served:
        found = await record_of(served.url, attempts=3)
    assert (found.result, len(served.rankings), found.retried) == ("refused", 1, ())


async def test_each_tenant_has_a_key_of_its_own() -> None:
    tenants = (Tenant("a", "key-a"), Tenant("b", "key-b"))
    with scripted() as served:
        outcome = await outcome_of(served.url, schedule(callers="2", requests=40), tenants=tenants)
    by_id = {one.headers["authorization"] for one in served.rankings}
    assert by_id == {"Bearer key-a", "Bearer key-b"}
    counted = [sum(record.tenant == name for record in outcome.records) for name in ("a", "b")]
    keys = [sum(one.headers["authorization"] == f"Bearer key-{n}" for one in served.rankings) for n in "ab"]
    assert counted == keys


def test_what_a_record_measures() -> None:
    record = Record(1.0, 1.5, 4.0, "t", "m", "ok", 20)
    assert (record.latency_s, record.service_s, record.lag_s) == (3.0, 2.5, 0.5)
