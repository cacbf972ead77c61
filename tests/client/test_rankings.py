"""What is sent for a reranking, and how its reply is read: documents come back, wrong orders do not."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_client import InvalidCall, InvalidRanking, Ranking, RerankOptions, UnexpectedReply
from dear_client.calls import Calls, read_ranking, rerank_body

TEXTS = ["alpha", "beta", "gamma", "delta"]


def body(
    documents: Any = TEXTS, query: Any = "q", model: str | None = None, **options: Any
) -> dict[str, Any]:
    return rerank_body(query, documents, model, options)


def reply(*order: int, scores: list[float] | None = None) -> dict[str, Any]:
    """A reply with this order, and the fewest fields."""
    scores = scores or [1 - rank / 10 for rank in range(len(order))]
    return {
        "results": [
            {"index": index, "relevance_score": score} for index, score in zip(order, scores, strict=True)
        ]
    }


# Requests.


def test_a_request_without_options_is_query_and_documents() -> None:
    assert body() == {"query": "q", "documents": TEXTS}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"model": "legal"}, {"model": "legal"}),
        ({"top_n": 3}, {"top_n": 3}),
        ({"top_n": 0}, {"top_n": 0}),
        ({"max_passage_tokens": 64}, {"max_tokens_per_doc": 64}),
        ({"priority": 0}, {"priority": 0}),
        ({"strategy": "sliding", "step": 5}, {"dear": {"strategy": "sliding", "step": 5}}),
        ({"reasoning": False, "passes": 2}, {"dear": {"reasoning": False, "passes": 2}}),
        ({"scoring": "generate", "window_size": 8}, {"dear": {"scoring": "generate", "window_size": 8}}),
        ({"deadline_s": 1.5}, {"dear": {"deadline_ms": 1500}}),
        ({"deadline_s": 0.0001}, {"dear": {"deadline_ms": 1}}),
        ({"request_id": "mine"}, {}),
        (dict.fromkeys(RerankOptions.__annotations__), {}),
    ],
)
def test_options_go_where_the_server_reads_them(options: dict[str, Any], sent: dict[str, Any]) -> None:
    assert body(**options) == {"query": "q", "documents": TEXTS} | sent


@pytest.mark.parametrize(("given_model", "sent"), [(None, "base"), ("legal", "legal")])
def test_a_calls_model_goes_before_the_clients(given_model: str | None, sent: str) -> None:
    assert body(model="base") == {"model": "base", "query": "q", "documents": TEXTS}
    assert rerank_body("q", TEXTS, "base", {"model": given_model})["model"] == sent


class Opaque:
    """Nothing that JSON knows."""


RICH = [
    {"text": "alpha", "url": "https://example.org/secret", "owner": Opaque()},
    "beta",
    {"text": "gamma", "nested": {"secret": [1, 2]}, "at": datetime(2026, 1, 1)},
]


def test_metadata_is_never_sent() -> None:
    sent = body(RICH)
    assert sent["documents"] == ["alpha", "beta", "gamma"]
    assert "secret" not in json.dumps(sent)


def test_rank_fields_alone_are_sent() -> None:
    documents = [{"title": "t", "body": "b", "id": Opaque()}, "plain", {"title": "only"}]
    sent = body(documents, rank_fields=("title", "body"))
    assert sent["documents"] == [{"title": "t", "body": "b"}, "plain", {"title": "only"}]
    assert sent["rank_fields"] == ["title", "body"]


@pytest.mark.parametrize(
    ("given_call", "message"),
    [
        ({"query": None}, "query: a text is needed, not NoneType"),
        ({"query": ["q"]}, "query: a text is needed, not list"),
        ({"documents": "one text"}, "documents: a list is needed, not str"),
        ({"documents": b"bytes"}, "documents: a list is needed, not bytes"),
        ({"documents": {"text": "a"}}, "documents: a list is needed, not dict"),
        ({"documents": None}, "documents: a list is needed, not NoneType"),
        ({"documents": 5}, "documents: a list is needed, not int"),
        ({"documents": ["a", 5]}, "documents.1: a text or an object is needed, not int"),
        ({"documents": ["a", None]}, "documents.1: a text or an object is needed, not NoneType"),
        ({"documents": [{"txt": "a"}]}, 'documents.0: the object has no "text"'),
        ({"documents": [{"text": 5}]}, 'documents.0: the object has no "text"'),
        ({"top": 5}, "there is no option 'top'; do you mean 'top_n'?"),
        ({"zzz": 5}, "there is no option 'zzz'"),
        ({"top_n": "5"}, "top_n: it cannot be of type str"),
        ({"deadline_s": "1"}, "deadline_s: it cannot be of type str"),
        ({"deadline_s": 0}, "deadline_s: 0 is not above 0"),
        ({"deadline_s": -1.0}, "deadline_s: -1.0 is not above 0"),
        ({"deadline_s": float("nan")}, "deadline_s: nan is not above 0"),
        ({"rank_fields": "title"}, "rank_fields: a list is needed, not str"),
        ({"request_id": 5}, "request_id: it cannot be of type int"),
        ({"request_id": "a b"}, "request_id: 1 to 128 letters, digits and . : _ - are needed, not 'a b'"),
        ({"request_id": ""}, "request_id: 1 to 128 letters, digits and . : _ - are needed, not ''"),
        ({"request_id": "a\r\nx: y"}, "request_id: 1 to 128 letters, digits and . : _ - are needed, not"),
    ],
)
@pytest.mark.parametrize("method", ["rerank", "stream"])
def test_what_nobody_could_send_is_refused_before_it_is_sent(
    method: str, given_call: dict[str, Any], message: str
) -> None:
    call = {"query": "q", "documents": TEXTS} | given_call
    with pytest.raises(InvalidCall) as caught:
        getattr(Calls(), method)(**call)
    assert str(caught.value).startswith(message)


def test_documents_may_be_any_iterable() -> None:
    call = Calls().rerank("q", (text for text in TEXTS))
    assert call.body is not None
    assert call.body["documents"] == TEXTS


# Replies.


def test_the_very_documents_come_back() -> None:
    ranking = read_ranking(reply(2, 0, 1), RICH, None)
    assert [
        found is given for found, given in zip(ranking.documents, (RICH[2], RICH[0], RICH[1]), strict=True)
    ]
    assert all(result.document is RICH[result.index] for result in ranking.results)
    assert [result.text for result in ranking.results] == ["gamma", "alpha", "beta"]


def test_documents_that_the_server_sends_back_do_not_replace_ours() -> None:
    data = reply(1, 0)
    data["results"][0]["document"] = {"text": "another"}
    assert read_ranking(data, ["a", "b"], None).documents == ("b", "a")


def test_the_text_of_a_document_that_has_none_is_empty() -> None:
    ranking = read_ranking(reply(0), [{"title": "t"}], None)
    assert ranking.results[0].text == ""


@pytest.mark.parametrize(
    ("top_n", "order"), [(None, (3, 1, 0, 2)), (0, (3, 1, 0, 2)), (2, (3, 1)), (9, (3, 1, 0, 2))]
)
def test_top_n_says_how_many_come_back(top_n: int | None, order: tuple[int, ...]) -> None:
    assert read_ranking(reply(*order), TEXTS, top_n).order == order


@pytest.mark.parametrize(
    ("data", "top_n", "message"),
    [
        (reply(0, 1, 1, 2), None, "the reply's order is no permutation of 4 documents: [0, 1, 1, 2]"),
        (reply(0, 1, 2, -1), None, "the reply's order is no permutation of 4 documents: [0, 1, 2, -1]"),
        (reply(0, 1, 2, 4), None, "the reply ranks a document that is none of the 4"),
        (reply(0, 1, 2, 10**30), None, "the reply ranks a document that is none of the 4"),
        (reply(0, 1, 2), None, "the reply ranks 3 documents instead of 4"),
        (reply(0, 1), 1, "the reply ranks 2 documents instead of 1"),
        (reply(), None, "the reply ranks 0 documents instead of 4"),
        (reply(0, 1, 2, 3, scores=[0.9, 0.5, 0.6, 0.1]), None, "the reply's scores rise along its order"),
    ],
)
def test_an_order_that_is_none_is_refused(data: dict[str, Any], top_n: int | None, message: str) -> None:
    with pytest.raises(InvalidRanking) as caught:
        read_ranking(data, TEXTS, top_n)
    assert str(caught.value) == message


@pytest.mark.parametrize("wrong", ["0", 0.0, None, [0], {}])
def test_an_index_is_a_number_and_nothing_like_one(wrong: object) -> None:
    data = reply(1, 2, 3)
    data["results"].append({"index": wrong, "relevance_score": 0.1})
    with pytest.raises(UnexpectedReply, match="the reply is no ranking of 4 documents"):
        read_ranking(data, TEXTS, None)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "high", None])
def test_a_score_is_a_finite_number(score: Any) -> None:
    data = reply(0)
    data["results"][0]["relevance_score"] = score
    with pytest.raises(UnexpectedReply, match=r"results\.0\.relevance_score"):
        read_ranking(data, ["a"], None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"results": None},
        {"results": {"0": 1}},
        {"results": [5]},
        {"results": [{"index": 0}]},
        reply(0) | {"meta": []} | {"usage": "none"},
        reply(0) | {"meta": {"warnings": "one text"}},
        reply(0) | {"meta": {"dear": {"windows": 1}}},
        reply(0) | {"id": 5},
    ],
)
def test_what_is_no_ranking_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(UnexpectedReply):
        read_ranking(data, ["a"], None)


COHERE = {
    "results": [{"index": 1, "relevance_score": 0.99}, {"index": 0, "relevance_score": 0.99}],
    "id": "07734bd2-2473-4f07-94e1-0d9f0e6843cf",
    "meta": {"api_version": {"version": "2", "is_experimental": False}, "billed_units": {"search_units": 1}},
}
JINA = {
    "model": "jina-reranker-v2-base-multilingual",
    "usage": {"total_tokens": 815, "prompt_tokens": 815},
    "results": [
        {"index": 1, "document": {"text": "from there"}, "relevance_score": 0.87},
        {"index": 0, "document": {"text": "from there"}, "relevance_score": -0.2},
    ],
}
VLLM = {
    "id": "rerank-fae51b2b664d4ed38f5969b612edff77",
    "model": "BAAI/bge-reranker-base",
    "usage": {"total_tokens": 56},
    "results": [
        {"index": 1, "document": {"text": "from there", "multi_modal": None}, "relevance_score": 0.99},
        {"index": 0, "document": {"text": "from there", "multi_modal": None}, "relevance_score": 0.001},
    ],
}


@pytest.mark.parametrize(
    ("data", "model", "tokens"),
    [
        (COHERE, None, 0),
        (JINA, "jina-reranker-v2-base-multilingual", 815),
        (VLLM, "BAAI/bge-reranker-base", 56),
        (reply(1, 0) | {"usage": None, "meta": None, "model": None}, None, 0),
    ],
    ids=["cohere", "jina", "vllm", "least"],
)
def test_replies_of_other_servers_are_read(data: dict[str, Any], model: str | None, tokens: int) -> None:
    ranking = read_ranking(data, ["a", "b"], None, "mine")
    assert (ranking.order, ranking.documents) == ((1, 0), ("b", "a"))
    assert (ranking.model, ranking.usage.total_tokens, ranking.details) == (model, tokens, None)
    assert (ranking.warnings, ranking.request_id) == ((), "mine")


def test_what_a_newer_server_adds_is_kept() -> None:
    data = reply(0) | {"meta": {"dear": {"strategy": "s", "windows": 1, "rounds": 1, "colour": "red"}}}
    data["results"][0]["novelty"] = 0.5
    ranking = read_ranking(data, ["a"], None)
    assert ranking.details is not None
    assert ranking.details.model_extra == {"colour": "red"}
    assert ranking.results[0].model_extra == {"novelty": 0.5}


@given(st.data())
def test_every_permutation_is_read_and_nothing_else(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    order = data.draw(st.lists(st.integers(-2, count + 1), min_size=count, max_size=count))
    documents = [f"passage {number}" for number in range(count)]
    try:
        ranking: Ranking | None = read_ranking(reply(*order), documents, None)
    except InvalidRanking:
        ranking = None
    assert (ranking is not None) == (sorted(order) == list(range(count)))
    if ranking is not None:
        assert ranking.documents == tuple(documents[index] for index in order)
