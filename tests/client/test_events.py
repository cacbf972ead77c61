"""Streams read without I/O: however their bytes are cut, and whatever is in them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_client import ClientError, ConnectionFailed, InvalidRanking, RankedDocument, UnexpectedReply
from dear_client.events import Ranks

URL = "http://h/v2/rerank"
DOCUMENTS = ["alpha", {"text": "beta", "id": 7}, "gamma"]
ORDER = (2, 0, 1)
ODD = "line\u2028separator \x85 next \x1c file 日本語 🙂"
"""Characters that some take for the end of a line, and that JSON leaves as they are."""


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def rank(place: int, index: Any) -> bytes:
    return event("rank", {"rank": place, "index": index, "relevance_score": 0.9 - place / 10})


def whole(*order: int, **more: Any) -> bytes:
    results = [{"index": index, "relevance_score": 0.9 - place / 10} for place, index in enumerate(order)]
    return event("ranking", {"results": results} | more)


def stream(*order: int) -> bytes:
    """A stream that ends well."""
    told = b"".join(rank(place, index) for place, index in enumerate(order))
    return told + whole(*order, meta={"warnings": [ODD]}) + b"data: [DONE]\n\n"


def read(ranks: Ranks, *parts: bytes) -> list[RankedDocument]:
    return [found for part in parts for found in ranks.feed(part)]


def new(top_n: int | None = None) -> Ranks:
    return Ranks(DOCUMENTS, top_n, URL, "mine")


@given(st.lists(st.integers(0, len(stream(*ORDER))), max_size=12), st.sampled_from([b"\n", b"\r\n"]))
def test_a_stream_is_the_same_however_it_is_cut(cuts: list[int], line_end: bytes) -> None:
    data = stream(*ORDER).replace(b"\n", line_end)
    places = [0, *sorted(cuts), len(data)]
    ranks = new()
    found = read(ranks, *(data[start:end] for start, end in itertools.pairwise(places)))
    assert [one.index for one in found] == list(ORDER)
    assert all(one.document is DOCUMENTS[one.index] for one in found)
    assert ranks.ranking.order == ORDER
    assert ranks.ranking.warnings == (ODD,)
    assert ranks.ranking.request_id == "mine"


def test_a_rank_is_told_as_soon_as_it_is_whole() -> None:
    ranks = new()
    assert [one.index for one in read(ranks, rank(0, 2) + b"event: ra")] == [2]
    assert not ranks.are_whole
    with pytest.raises(ConnectionFailed, match="ended the stream before the ranking was whole"):
        _ = ranks.ranking


def test_what_came_before_an_error_is_told_first() -> None:
    error = {"error": {"message": "the engine is restarting", "code": "engine_unavailable"}}
    told = new().feed(rank(0, 2) + event("error", error))
    assert next(told).index == 2
    with pytest.raises(ClientError, match="the engine is restarting") as caught:
        next(told)
    assert caught.value.request_id == "mine"


@pytest.mark.parametrize("noise", [b": a comment\n\n", b"id: 5\nretry: 10\n\n", event("ping", {}), b"\n\n\n"])
def test_what_a_stream_may_hold_besides_is_left_aside(noise: bytes) -> None:
    ranks = new()
    assert len(read(ranks, noise, rank(0, 2), noise, rank(1, 0) + noise, rank(2, 1), whole(*ORDER))) == 3
    assert ranks.are_whole


@pytest.mark.parametrize("data", [b"not json", b"[1]", b"5", b"null", b"{}", b'"text"', b"[" * 5000, b"\xff"])
@pytest.mark.parametrize("name", ["rank", "ranking", "error"])
def test_an_event_that_cannot_be_read_is_an_error_of_ours(name: str, data: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        read(new(), f"event: {name}\ndata: ".encode() + data + b"\n\n")
    assert caught.value.request_id == "mine"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("index", [-1, 3, "0", None, 1.5])
def test_a_rank_of_no_document_is_refused(index: object) -> None:
    with pytest.raises(UnexpectedReply, match=f"{URL}: the stream has an event that cannot be read"):
        read(new(), rank(0, index))


@pytest.mark.parametrize(
    ("told", "ranking", "top_n", "message"),
    [
        ((2, 0, 1), (2, 1, 0), None, "the stream's ranks are not those of its ranking"),
        ((2, 0), (2, 0, 1), None, "the stream's ranks are not those of its ranking"),
        ((2, 2), (2, 2), 2, r"the reply's order is no permutation of 3 documents: \[2, 2\]"),
        ((2, 0), (2, 0), None, "the reply ranks 2 documents instead of 3"),
        ((2, 0), (2, 0), 1, "the reply ranks 2 documents instead of 1"),
    ],
)
def test_a_streams_ranking_is_checked_as_any_other(
    told: tuple[int, ...], ranking: tuple[int, ...], top_n: int | None, message: str
) -> None:
    data = b"".join(rank(place, index) for place, index in enumerate(told)) + whole(*ranking)
    with pytest.raises(InvalidRanking, match=f"^{URL}: {message}$") as caught:
        read(new(top_n), data)
    assert caught.value.request_id == "mine"


@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b"event: rank\n", b"data: {}\n", b"\n"]), max_size=8)
)
def test_no_bytes_break_the_reader(parts: list[bytes]) -> None:
    try:
        read(new(), *parts)
    except ClientError as error:
        assert error.request_id == "mine"
