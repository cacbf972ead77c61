"""Calls driven without any I/O: what is sent again, how long is waited, what replies mean."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_client import (
    AnswerTimeout,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    InternalError,
    InvalidCall,
    Overloaded,
    PayloadTooLarge,
    Retry,
    ServerError,
    Timeout,
    Unavailable,
    UnexpectedReply,
)
from dear_client.administration import AdminCalls
from dear_client.calls import Calls
from dear_client.exchange import (
    Call,
    Conversation,
    Failure,
    Reply,
    Send,
    Terms,
    Wait,
    broken_connection,
    encoded,
    no_answer,
    no_connection,
    read_object,
    retry_after_s,
)

URL = "http://h"
JSON = {"content-type": "application/json"}
OK = Reply(200, httpx.Headers(JSON), b'{"status": "ok"}')
REFUSED = Failure(no_connection(URL, "connection refused"), was_sent=False)
BROKEN = Failure(broken_connection(URL, "connection reset by peer"), was_sent=True)
SILENT = Failure(no_answer(URL, 120), was_sent=True)


def reply(status: int, retry_after: str | None = None, body: bytes | None = None) -> Reply:
    """An error of the server's, or whatever ``body`` is."""
    headers = httpx.Headers(JSON | ({} if retry_after is None else {"Retry-After": retry_after}))
    return Reply(status, headers, json.dumps({"message": "no"}).encode() if body is None else body)


@dataclass
class Talk:
    """What came of a call that got these outcomes, the last one again and again."""

    sent: list[Send] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    answer: Any = None
    error: ClientError | None = None
    took_s: float = 0.0


def talk(
    conversation: Conversation[Any],
    *outcomes: Reply | Failure,
    retry: Retry | None = None,
    timeout: Timeout | None = None,
    each_s: float = 0.0,
) -> Talk:
    """Drive a conversation by a clock of its own; every attempt takes ``each_s``."""
    done, now = Talk(), [1000.0]
    steps = conversation.steps(Terms(URL, timeout or Timeout(), retry or Retry(), lambda: now[0]))
    left: Iterator[Reply | Failure] = iter(outcomes)
    answer: Reply | Failure | None = None
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Wait):
                done.waits.append(step.seconds)
                now[0] += step.seconds
                answer = None
            else:
                done.sent.append(step)
                assert len(done.sent) < 100
                now[0] += each_s
                answer = next(left, outcomes[-1])
    except StopIteration as end:
        done.answer = end.value
    except ClientError as error:
        done.error = error
    done.took_s = now[0] - 1000.0
    return done


def get(**given: Any) -> Call[dict[str, Any]]:
    return Call("GET", "/x", read_object, **given)


# What is tried again.


@pytest.mark.parametrize(
    "outcome", [REFUSED, BROKEN, reply(429), reply(503), reply(429, "2"), reply(503, "0")]
)
def test_what_may_pass_is_tried_again(outcome: Reply | Failure) -> None:
    done = talk(get(), outcome, OK)
    assert done.answer == {"status": "ok"}
    assert (len(done.sent), len(done.waits)) == (2, 1)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 409, 413, 415, 422, 500, 502, 504])
def test_other_errors_are_told_at_once(status: int) -> None:
    done = talk(get(), reply(status, "1"), OK)
    assert isinstance(done.error, ServerError)
    assert (done.error.status, len(done.sent), done.waits) == (status, 1, [])


TEXT = {"content-type": "text/plain; charset=utf-8"}


def test_what_rays_proxy_says_of_a_gateway_that_died_is_tried_again_where_it_may_be() -> None:
    page = Reply(500, TEXT, b"Internal Server Error")
    done = talk(get(), page, OK)
    assert done.answer == {"status": "ok"}
    assert len(done.sent) == 2
    once = talk(get(is_repeatable=False), page, OK)
    assert isinstance(once.error, InternalError)
    assert len(once.sent) == 1


@pytest.mark.parametrize("is_repeatable", [True, False])
def test_what_a_gateway_worked_on_that_died_is_tried_again_where_it_may_be(is_repeatable: bool) -> None:
    body = {"error": {"code": "gateway_unavailable", "message": "the gateway died"}}
    died = Reply(503, JSON | {"retry-after": "1"}, json.dumps(body).encode())
    done = talk(get(is_repeatable=is_repeatable), died, OK)
    assert len(done.sent) == (2 if is_repeatable else 1)


def test_an_answer_that_does_not_come_is_not_asked_for_again() -> None:
    done = talk(get(), SILENT, OK)
    assert isinstance(done.error, AnswerTimeout)
    assert len(done.sent) == 1


@pytest.mark.parametrize("attempts", [1, 2, 4, 7])
@pytest.mark.parametrize("outcome", [REFUSED, BROKEN, reply(429), reply(503)])
def test_there_are_so_many_attempts_and_no_more(attempts: int, outcome: Reply | Failure) -> None:
    done = talk(get(), outcome, retry=Retry(attempts=attempts))
    assert (len(done.sent), len(done.waits)) == (attempts, attempts - 1)
    assert isinstance(done.error, ClientError)


@pytest.mark.parametrize(
    ("outcome", "attempts"), [(BROKEN, 1), (REFUSED, 4), (reply(429), 4), (reply(503), 4)]
)
def test_what_must_not_happen_twice_is_sent_again_only_where_nothing_was_done(
    outcome: Reply | Failure, attempts: int
) -> None:
    done = talk(AdminCalls().create_tenant("acme"), outcome)
    assert len(done.sent) == attempts


def test_one_request_id_goes_with_every_attempt_and_the_error() -> None:
    done = talk(get(request_id="mine"), reply(503), REFUSED, reply(400))
    assert [send.call.request_id for send in done.sent] == ["mine"] * 3
    assert done.error is not None
    assert done.error.request_id == "mine"


@pytest.mark.parametrize("outcome", [REFUSED, SILENT, reply(400), reply(200, body=b"<p>")])
def test_every_error_has_a_request_id(outcome: Reply | Failure) -> None:
    done = talk(Calls().models(), outcome, retry=Retry(attempts=1))
    assert done.error is not None
    assert len(done.error.request_id or "") == 32
    assert done.error.request_id == done.sent[0].call.request_id


# Waiting.


@pytest.mark.parametrize(("header", "least_s"), [("1", 1.0), ("7", 7.0), ("0.5", 0.5), ("0", 0.0)])
def test_retry_after_is_never_undercut(header: str, least_s: float) -> None:
    for _ in range(20):
        (wait_s,) = talk(get(), reply(429, header), OK).waits
        assert least_s <= wait_s <= least_s * 1.25


def test_waits_double_up_to_the_most() -> None:
    done = talk(get(), REFUSED, retry=Retry(attempts=7, first_s=0.5, most_s=4.0))
    for wait_s, base_s in zip(done.waits, [0.5, 1, 2, 4, 4, 4], strict=True):
        assert base_s <= wait_s <= base_s * 1.25


@pytest.mark.parametrize(
    ("retry_after", "total_s", "attempts"),
    [("100", 60.0, 1), ("25", 60.0, 2), ("9", 20.0, 2), (None, 0.1, 1)],
)
def test_a_wait_that_would_outlast_the_total_is_not_begun(
    retry_after: str | None, total_s: float, attempts: int
) -> None:
    done = talk(get(), reply(429, retry_after), timeout=Timeout(total_s=total_s), retry=Retry(attempts=9))
    assert isinstance(done.error, Overloaded)
    assert done.took_s < total_s
    assert len(done.sent) in (attempts, attempts + 1)
    assert sum(done.waits) + float(retry_after or 0.25) * 1.25 >= total_s


def test_what_is_left_of_the_total_bounds_each_attempt() -> None:
    timeout = Timeout(connect_s=5, answer_s=20, total_s=30)
    done = talk(get(), BROKEN, timeout=timeout, each_s=12.0, retry=Retry(attempts=9, first_s=1, most_s=1))
    assert next((send.connect_s, send.answer_s) for send in done.sent) == (5, 20)
    assert done.sent[1].answer_s == pytest.approx(30 - 12 - done.waits[0])
    assert done.sent[2].connect_s == pytest.approx(30 - 24 - sum(done.waits[:2]))
    assert {send.until_s for send in done.sent} == {1030.0}
    assert len(done.sent) == 3


@pytest.mark.parametrize(("answer_s", "longest_s"), [(5.0, 150.0), (200.0, 200.0), (1000.0, 300.0)])
def test_staging_may_take_longer_than_other_calls_never_less(answer_s: float, longest_s: float) -> None:
    done = talk(AdminCalls().register_adapter("a", "b"), reply(400), timeout=Timeout(answer_s=answer_s))
    assert done.sent[0].answer_s == longest_s


@given(
    attempt=st.integers(1, 10_000),
    asked_s=st.none() | st.floats(0, 1e9),
    chance=st.none() | st.floats(0, 1),
    first_s=st.floats(0, 100),
    most_s=st.floats(0, 100),
)
def test_a_wait_is_what_was_asked_for_and_up_to_a_quarter(
    attempt: int, asked_s: float | None, chance: float | None, first_s: float, most_s: float
) -> None:
    wait_s = Retry(first_s=first_s, most_s=most_s).wait_s(attempt, asked_s, chance)
    base_s = asked_s if asked_s is not None else min(first_s * 2 ** min(attempt - 1, 60), most_s)
    assert base_s <= wait_s <= base_s * 1.25 * (1 + 1e-12)


def test_waits_of_many_callers_are_spread() -> None:
    waits = [Retry().wait_s(1, 8.0) for _ in range(200)]
    assert max(waits) - min(waits) > 1.0


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose local time is not GMT."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("12", 12.0),
        (" 3.5 ", 3.5),
        ("-4", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        ("Wed Mar  4 05:06:37 2026", 30.0),  # asctime's: GMT without saying so
        ("Wednesday, 04-Mar-26 05:06:37 GMT", 30.0),
        ("Wed, 04 Mar 2026 05:06:37 -0000", 30.0),
        ("Wed, 04 Mar 2026 07:06:37 +0200", 30.0),
        ("Wed, 99 Mar 2026 05:06:37 GMT", None),
        ("Wed, 04 Mar 99999 05:06:37 GMT", None),
    ],
)
def test_retry_after_in_seconds_and_in_http_dates(
    value: str | None, seconds: float | None, far_from_greenwich: None
) -> None:
    headers = httpx.Headers({} if value is None else {"Retry-After": value})
    assert retry_after_s(headers, NOW.timestamp) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_breaks_the_client(value: str) -> None:
    found = retry_after_s({"retry-after": value})
    assert found is None or 0 <= found < float("inf")


def test_a_date_in_retry_after_is_obeyed() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    (wait_s,) = talk(get(), reply(503, at), OK).waits
    assert 18 < wait_s <= 25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Timeout(connect_s=0), "timeout.connect_s: 0 is not above 0"),
        (lambda: Timeout(answer_s=-1), "timeout.answer_s: -1 is not above 0"),
        (lambda: Timeout(total_s=float("nan")), "timeout.total_s: nan is not above 0"),
        (lambda: Retry(attempts=0), "retry.attempts: 0 is below 1"),
        (lambda: Retry(first_s=-0.1), "retry.first_s: -0.1 is not 0 or above"),
        (lambda: Retry(most_s=float("nan")), "retry.most_s: nan is not 0 or above"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value) == message


# What replies mean.

HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = b"<html>\n  <h1>Welcome to nginx!</h1>\n</html>"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (
            Reply(200, HTML, PAGE),
            UnexpectedReply,
            "http://h/x: answered HTTP 200 with text/html instead of JSON, so this is probably another "
            "server's address: <html> <h1>Welcome to nginx!</h1> </html>",
        ),
        (
            Reply(404, HTML, PAGE),
            UnexpectedReply,
            "http://h/x: answered HTTP 404 with text/html instead of JSON, so this is probably another "
            "server's address: <html> <h1>Welcome to nginx!</h1> </html>",
        ),
        (
            Reply(301, HTML | {"location": "https://h/x"}, b""),
            UnexpectedReply,
            "http://h/x: answered HTTP 301 with text/html instead of JSON and leads to https://h/x: (empty)",
        ),
        (
            Reply(200, {}, b""),
            UnexpectedReply,
            "http://h/x: answered HTTP 200 with no content type instead of JSON: (empty)",
        ),
        (
            Reply(200, JSON, b"[1, 2]"),
            UnexpectedReply,
            "http://h/x: answered HTTP 200 with JSON that is no object: [1, 2]",
        ),
        (
            Reply(200, JSON, b"null"),
            UnexpectedReply,
            "http://h/x: answered HTTP 200 with JSON that is no object: null",
        ),
        (
            Reply(200, JSON, b'{"a": \xff}'),
            UnexpectedReply,
            'http://h/x: answered HTTP 200 with application/json instead of JSON: {"a": \ufffd}',
        ),
        (Reply(502, HTML, PAGE), InternalError, "http://h/x answered HTTP 502 without a reason"),
        (Reply(500, JSON, b"null"), InternalError, "http://h/x answered HTTP 500 without a reason"),
        (Reply(503, HTML, PAGE), Unavailable, "http://h/x answered HTTP 503 without a reason"),
        (Reply(429, {}, b""), Overloaded, "http://h/x answered HTTP 429 without a reason"),
        (Reply(413, HTML, PAGE), PayloadTooLarge, "http://h/x answered HTTP 413 without a reason"),
    ],
)
def test_replies_of_something_else_are_told_in_a_sentence(
    answer: Reply, kind: type[ClientError], message: str
) -> None:
    error = talk(get(), answer, retry=Retry(attempts=1)).error
    assert type(error) is kind
    assert str(error) == message


def test_a_proxys_503_is_tried_again_and_its_502_is_not() -> None:
    assert talk(get(), Reply(503, HTML, PAGE), OK).answer == {"status": "ok"}
    assert len(talk(get(), Reply(502, HTML, PAGE), OK).sent) == 1


@pytest.mark.parametrize("body", [b"x" * 10_000_000, b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000])
@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_huge_reply_makes_a_short_sentence(status: int, body: bytes) -> None:
    error = talk(get(), Reply(status, JSON, body), retry=Retry(attempts=1)).error
    assert isinstance(error, ClientError)
    assert len(str(error)) < 300


_NAMES = st.sampled_from(
    (
        *("id", "model", "results", "usage", "meta", "index", "relevance_score", "error", "message", "code"),
        *("type", "data", "next", "dear", "warnings", "windows", "strategy", "repairs", "prompt_tokens"),
    )
) | st.text(max_size=3)
_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=12,
)
_RESULTS = st.fixed_dictionaries(
    {"results": st.lists(st.fixed_dictionaries({"index": _JSON_VALUES, "relevance_score": _JSON_VALUES}))},
    optional={"usage": _JSON_VALUES, "meta": st.dictionaries(_NAMES, _JSON_VALUES), "id": _JSON_VALUES},
)
_BODIES = st.binary(max_size=60) | (_JSON_VALUES | _RESULTS).map(lambda value: json.dumps(value).encode())
_PLANS: Mapping[str, Any] = {
    "rerank": lambda: Calls().rerank("q", ["a", "b"]),
    "models": lambda: Calls().models(),
    "ready": lambda: Calls().ready(),
    "tenants": lambda: AdminCalls().tenants(),
    "keys": lambda: AdminCalls().keys("acme"),
    "adapter": lambda: AdminCalls().adapter("legal"),
    "audit": lambda: AdminCalls().audit(),
    "replicas": lambda: AdminCalls().replicas(),
}


@given(
    name=st.sampled_from(sorted(_PLANS)),
    status=st.sampled_from([200, 201, 204, 302, 400, 404, 418, 429, 500, 503]),
    body=_BODIES,
    headers=st.dictionaries(
        st.sampled_from(["content-type", "retry-after", "location"]),
        st.text(max_size=12) | st.sampled_from(["text/html", "application/json"]),
    ),
)
def test_whatever_is_answered_the_error_is_one_of_ours(
    name: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    done = talk(_PLANS[name](), Reply(status, headers, body), retry=Retry(attempts=2, first_s=0))
    assert done.error is None or str(done.error)
    assert done.error is not None or status < 300


# Pages.


def page(names: list[str], following: object) -> Reply:
    data = [{"id": name, "weight": 1.0} for name in names]
    return reply(200, body=json.dumps({"object": "list", "data": data, "next": following}).encode())


def test_pages_are_read_to_the_last() -> None:
    done = talk(AdminCalls().tenants(), page(["a", "b"], "b"), page(["c d", "e"], "c d"), page([], None))
    assert [tenant.id for tenant in done.answer] == ["a", "b", "c d", "e"]
    paths = [send.call.path for send in done.sent]
    assert paths == [f"/admin/v1/tenants?limit=1000&after={after}" for after in ("", "b", "c%20d")]
    assert len({send.call.request_id for send in done.sent}) == 3


@pytest.mark.parametrize("following", ["a", 7, "", ["a"]])
def test_a_server_that_repeats_a_page_ends_no_later(following: object) -> None:
    done = talk(AdminCalls().tenants(), page(["a"], following))
    assert len(done.sent) <= 2
    assert done.error is None


def test_an_error_on_a_later_page_is_the_error() -> None:
    done = talk(AdminCalls().tenants(), page(["a"], "a"), reply(503), reply(401))
    assert type(done.error).__name__ == "InvalidKey"


# Requests.


@pytest.mark.parametrize(
    ("body", "written"),
    [
        ({"a": "日本", "b": [1, 2.5, None, True]}, '{"a":"日本","b":[1,2.5,null,true]}'),
        ({"a": "x\ud800y"}, '{"a":"x?y"}'),
    ],
)
def test_bodies_are_short_json(body: dict[str, Any], written: str) -> None:
    assert encoded(body) == written.encode()


@pytest.mark.parametrize("value", [datetime.now(UTC), {1, 2}, float("nan"), float("inf"), b"x", object()])
def test_what_has_no_json_is_an_invalid_call(value: object) -> None:
    with pytest.raises(InvalidCall, match="the request cannot be written as JSON: "):
        encoded({"documents": [{"x": value}]})


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidCall, match="nothing can have the name"):
        AdminCalls().delete_tenant(name)


@pytest.mark.parametrize(
    ("name", "path"), [("a/b", "a%2Fb"), ("ü b?#%", "%C3%BC%20b%3F%23%25"), ("...", "..."), ("a.b", "a.b")]
)
def test_any_other_name_stays_one_part_of_the_path(name: str, path: str) -> None:
    assert AdminCalls().tenant(name).path == f"/admin/v1/tenants/{path}"


def test_a_connection_that_fails_for_good_is_the_last_error() -> None:
    done = talk(get(), reply(503), BROKEN, retry=Retry(attempts=2))
    assert isinstance(done.error, ConnectionFailed)


def test_ids_and_jitter_are_their_own_whoever_seeds_random() -> None:
    def drawn() -> tuple[str, float]:
        random.seed(0)
        return get().request_id, Retry().wait_s(1, 8.0)

    (first, first_s), (second, second_s) = drawn(), drawn()
    assert first != second
    assert first_s != second_s
    assert {len(first), len(second)} == {32}


def test_ids_differ_between_forked_processes() -> None:
    program = """
import os
from dear_client.exchange import new_request_id
for _ in range(2):
    if not os.fork():
        print(new_request_id(), flush=True)
        os._exit(0)
    os.wait()
print(new_request_id())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 3
