"""The client's tree of errors mirrors the server's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import dear_client
from dear_client import Retry
from dear_client.errors import ClientError, ServerError, server_error
from dear_client.events import Ranks
from dear_client.exchange import Call, Reply, Terms, read_object
from dear_serving.errors import RateLimited, RequestError
from dear_serving.http.errors import InternalError, error_body, error_reply

ID = "the-request"


def below(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        if one.__module__.startswith("dear_"):
            yield one
            yield from below(one)


KINDS = sorted(set(below(RequestError)), key=lambda kind: kind.__name__)
LEAVES = [kind for kind in KINDS if not list(below(kind))]


def made(kind: type[RequestError]) -> RequestError:
    """An error of the server's with everything that it may say."""
    if kind is RateLimited:
        return RateLimited("what is wrong", retry_after_s=3.2, headers={"x-ratelimit-limit-requests": "5"})
    return kind("what is wrong", param="documents.3", retry_after_s=7.0 if kind.retryable else None)


def raised(reply: Reply) -> ServerError:
    """The error of a call that got this reply."""
    steps = Call("GET", "/x", read_object, request_id=ID).steps(Terms("http://h", retry=Retry(attempts=1)))
    next(steps)
    with pytest.raises(ServerError) as caught:
        steps.send(reply)
    return caught.value


def test_the_tree_has_the_leaves_that_this_file_speaks_of() -> None:
    assert InternalError in LEAVES
    assert len(LEAVES) >= 16


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_of_the_servers_tree_has_a_code_of_its_own(kind: type[RequestError]) -> None:
    assert kind.code
    assert [other for other in KINDS if other.code == kind.code] == [kind]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_of_the_server_is_the_clients_error_of_that_name(kind: type[RequestError]) -> None:
    error = made(kind)
    reply = error_reply(error)
    found = raised(Reply(reply.status_code, reply.headers, bytes(reply.body)))
    assert type(found) is getattr(dear_client, kind.__name__)
    said = (found.message, str(found), found.status, found.type, found.code, found.param, found.request_id)
    assert said == ("what is wrong", "what is wrong", kind.status, kind.type, kind.code, error.param, ID)
    assert found.retry_after_s == (None if error.retry_after_s is None else 4 if kind is RateLimited else 7)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_an_error_in_the_middle_of_a_stream_is_the_same(kind: type[RequestError]) -> None:
    ranks = Ranks(["a"], None, "http://h/v2/rerank", ID)
    event = f"event: error\ndata: {json.dumps(error_body(made(kind)))}\n\n"
    with pytest.raises(ServerError) as caught:
        list(ranks.feed(event.encode()))
    found = caught.value
    assert type(found) is getattr(dear_client, kind.__name__)
    assert (found.status, found.type, found.code, found.request_id) == (
        kind.status,
        kind.type,
        kind.code,
        ID,
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, "ServerError"),
        (400, "InvalidRequest"),
        (401, "InvalidKey"),
        (403, "PermissionDenied"),
        (404, "NotFound"),
        (405, "MethodNotAllowed"),
        (408, "BodyTimeout"),
        (409, "Conflict"),
        (413, "PayloadTooLarge"),
        (415, "UnsupportedMediaType"),
        (418, "ServerError"),
        (422, "InvalidRequest"),
        (429, "Overloaded"),
        (500, "InternalError"),
        (502, "InternalError"),
        (503, "Unavailable"),
        (504, "DeadlineExceeded"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "code": 404, "type": None}},  # vLLM's
        {"message": "no"},  # Cohere's
        {"detail": "no"},  # Jina's
        {"error": "no", "error_type": "Validation"},  # TEI's
        {"error": {"message": "no", "code": "a_new_one"}},
    ],
    ids=["vllm", "cohere", "jina", "tei", "newer"],
)
def test_errors_of_other_servers_are_told_apart_by_status(
    status: int, kind: str, body: dict[str, Any]
) -> None:
    found = server_error(status, body)
    assert type(found).__name__ == kind
    assert (found.message, found.status) == ("no", status)


def test_a_code_never_contradicts_its_status() -> None:
    assert type(server_error(500, {"error": {"code": "model_not_found"}})).__name__ == "InternalError"


@pytest.mark.parametrize(
    "body", [{}, {"error": None}, {"error": []}, {"message": 5, "detail": [{"msg": "x"}]}]
)
def test_an_error_without_a_sentence_says_its_status(body: dict[str, Any]) -> None:
    assert str(server_error(503, body)) == "HTTP 503 without a reason"


def test_errors_survive_pickling() -> None:
    error = server_error(429, {"error": {"message": "m", "code": "rate_limit_exceeded"}}, retry_after_s=2.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)


def test_every_error_of_the_package_is_exported_and_has_its_place_in_the_drawing() -> None:
    names = {ClientError.__name__, *(kind.__name__ for kind in below(ClientError))}
    assert names <= set(dear_client.__all__)
    drawing = dear_client.errors.__doc__ or ""
    assert {name for name in names if name not in drawing} == set()
