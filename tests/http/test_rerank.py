"""The rerank dialects over the fake engine, which ranks from the last passage to the first."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.http import arrival
from dear_serving.protocol import GenerationRequest, PermutationRequest
from dear_serving.ranking.prompts import PromptBuilder, TaskPrompts
from dear_serving.ranking.strategies.latency import LatencyModel
from tests.conftest import LEGAL, client_of, with_rerank
from tests.support.fake_engine import FakeEngine

DOCUMENTS = ["alpha", "beta", "gamma"]
BODY = {"model": "legal", "query": "which letter?", "documents": DOCUMENTS}
PATHS = ["/rerank", "/v1/rerank", "/v2/rerank", "/v1/v2/rerank"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_answers_the_superset(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.post(path, json=BODY)
    assert reply.status_code == 200
    data = reply.json()
    assert data["object"] == "list"
    assert data["model"] == "legal"
    assert data["id"] == reply.headers["x-request-id"]
    assert [result["index"] for result in data["results"]] == [2, 1, 0]
    usage, meta = data["usage"], data["meta"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert meta["tokens"] == {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
    }
    assert meta["api_version"] == {"version": "2"}
    assert meta["billed_units"] == {"search_units": 1}
    assert meta["warnings"] == []
    assert meta["dear"] == {
        "strategy": "single",
        "strategy_reason": "3 passages fit one window of 20",
        "scoring": "permutation",
        "ranks": {"listwise": 3, "one_pass": 0, "unread": 0},
        "windows": 1,
        "rounds": 1,
        "repairs": {"repeated": 0, "missing": 0, "out_of_range": 0, "unparseable": 0},
        "score_type": "first_step",
        "revision": LEGAL,
        "queue_ms": pytest.approx(1.0, abs=100),
        "engine_ms": 2.0,
        "passes": 0,
        "drafts": 0,
        "accepted_drafts": 0,
    }


async def test_an_explanation_comes_where_it_is_asked_for(http: httpx.AsyncClient) -> None:
    long = [f"passage {number} " + "with many more words " * 50 for number in range(3)]
    options = {"explain": True, "long_documents": "max_passage"}
    for body, cut in ((BODY, []), (BODY | {"documents": long}, [0, 1, 2])):
        reply = (await http.post("/v2/rerank", json=body | {"dear": {"explain": True}})).json()
        explanation = reply["meta"]["dear"]["explanation"]
        (window,) = explanation["windows"]
        assert (window["round"], window["documents"], explanation["cut_documents"]) == (0, [0, 1, 2], cut)
        assert 0 <= window["start_ms"] <= window["end_ms"] <= explanation["total_ms"]
    parts = (await http.post("/v2/rerank", json=BODY | {"documents": long, "dear": options})).json()
    assert parts["meta"]["dear"]["parts"] > 3
    (window,) = parts["meta"]["dear"]["explanation"]["windows"]
    assert window["documents"] == [0, 1, 2]
    assert parts["meta"]["dear"]["explanation"]["cut_documents"] == []


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21, 25, 100])
async def test_scores_fall_strictly_within_zero_and_one(http: httpx.AsyncClient, count: int) -> None:
    body = BODY | {"documents": [f"passage {number}" for number in range(count)]}
    results = (await http.post("/v2/rerank", json=body)).json()["results"]
    scores = [result["relevance_score"] for result in results]
    assert all(0 <= score <= 1 for score in scores)
    assert all(first > second for first, second in itertools.pairwise(scores))
    assert sorted(result["index"] for result in results) == list(range(count))


@pytest.mark.parametrize(("top_n", "shown"), [(None, 3), (0, 3), (1, 1), (2, 2), (3, 3), (99, 3)])
async def test_top_n(http: httpx.AsyncClient, top_n: int | None, shown: int) -> None:
    reply = await http.post("/v1/rerank", json=BODY | {"top_n": top_n})
    assert [result["index"] for result in reply.json()["results"]] == [2, 1, 0][:shown]


async def test_null_is_as_absent_in_every_optional_field(http: httpx.AsyncClient) -> None:
    optional = [
        "model",
        "top_n",
        "return_documents",
        "rank_fields",
        "max_chunks_per_doc",
        "max_tokens_per_doc",
        "truncate_prompt_tokens",
        "priority",
        "dear",
    ]
    reply = await http.post("/v1/rerank", json=BODY | dict.fromkeys(optional))
    assert reply.status_code == 200
    assert reply.json()["model"] == "dear-tiny"


async def test_unknown_fields_are_ignored(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v2/rerank", json=BODY | {"overrides": {"x": 1}, "user": "me"})
    assert reply.status_code == 200


async def test_object_documents_come_back_whole(http: httpx.AsyncClient) -> None:
    documents = ["plain", {"text": "rich", "url": "https://example.org", "rank": 7}]
    body = BODY | {"documents": documents, "return_documents": True}
    results = (await http.post("/v1/rerank", json=body)).json()["results"]
    assert [result["document"] for result in results] == [documents[1], {"text": "plain"}]
    without = (await http.post("/v1/rerank", json=BODY | {"documents": documents})).json()["results"]
    assert all("document" not in result for result in without)


async def test_rank_fields_choose_what_the_model_reads(
    http: httpx.AsyncClient, engine: FakeEngine, tokenizer: object
) -> None:
    documents = [{"title": "Bulbs", "body": "Edison", "text": "ignored"}]
    body = BODY | {"documents": [*documents, *documents], "rank_fields": ["title", "body"]}
    assert (await http.post("/v1/rerank", json=body)).status_code == 200
    prompt = tokenizer.decode(engine.requests[0].token_ids)
    assert "title: Bulbs body: Edison" in prompt
    assert "ignored" not in prompt


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["text", "text"], "rank_fields: a field is named twice"),
        ([f"f{number}" for number in range(65)], "rank_fields: List should have at most 64 items"),
        (["f" * 257], "rank_fields.0: String should have at most 256 characters"),
    ],
)
async def test_rank_fields_are_few_short_and_different(
    http: httpx.AsyncClient, fields: list[str], message: str
) -> None:
    documents = [dict.fromkeys(fields, "x")]
    reply = await http.post("/v2/rerank", json=BODY | {"documents": documents, "rank_fields": fields})
    assert reply.status_code == 400
    assert reply.json()["message"].startswith(message)


async def test_fields_that_are_too_long_together_are_a_413(http: httpx.AsyncClient) -> None:
    documents = ["short", {"title": "x" * 100_000, "body": "y" * 100_000}]
    body = BODY | {"documents": documents, "rank_fields": ["title", "body"]}
    reply = await http.post("/v2/rerank", json=body)
    assert reply.status_code == 413
    assert reply.json()["message"] == (
        "documents.1: its rank_fields have 200014 characters, over the limit of 200000"
    )


async def test_tei_answers_a_bare_array_best_first(http: httpx.AsyncClient) -> None:
    body = {"query": "q", "texts": DOCUMENTS, "raw_scores": False, "return_text": True, "truncate": True}
    reply = await http.post("/rerank", json=body)
    assert reply.status_code == 200
    assert [(one["index"], one["text"]) for one in reply.json()] == [(2, "gamma"), (1, "beta"), (0, "alpha")]
    plain = (await http.post("/rerank", json={"query": "q", "texts": DOCUMENTS})).json()
    assert [set(one) for one in plain] == [{"index", "score"}] * 3


async def test_the_model_names_the_adapter_the_engine_uses(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for model in ("legal", "medical", "dear-tiny"):
        await http.post("/v2/rerank", json=BODY | {"model": model})
    adapters = [request.adapter for request in engine.requests]
    assert adapters[0] == LEGAL
    assert adapters[1] is not None and adapters[1].startswith("medical@")
    assert adapters[2] is None


def many(count: int) -> dict[str, object]:
    return {**BODY, "documents": [f"passage {number}" for number in range(count)]}


def asked(engine: FakeEngine) -> list[PermutationRequest]:
    """The windows the engine was asked to rank, one identifier after the other."""
    windows = [request for request in engine.requests if isinstance(request, PermutationRequest)]
    assert len(windows) == len(engine.requests)
    return windows


async def test_more_documents_than_a_window_are_ranked_in_several(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    meta = (await http.post("/v2/rerank", json=many(25))).json()["meta"]["dear"]
    assert (meta["strategy"], meta["windows"], meta["rounds"]) == ("joint", 6, 1)
    assert meta["strategy_reason"] == (
        "25 passages over a window of 20; no deadline to keep, 6 windows in 1 round"
    )
    assert len(asked(engine)) == 6
    assert all(len(window.identifiers) <= 20 for window in asked(engine))


@pytest.mark.parametrize(
    ("options", "windows", "rounds"),
    [
        ({"strategy": "single"}, 1, 1),
        ({"strategy": "single", "passes": 3}, 3, 1),
        ({"strategy": "sliding"}, 2, 2),
        ({"strategy": "sliding", "passes": 2}, 4, 2),
        ({"strategy": "sliding", "window_size": 5, "step": 5}, 5, 5),
        ({"strategy": "sliding", "window_size": 5}, 11, 11),  # the server's step of 10 is cut to 2
        ({"strategy": "sliding", "window_size": 5, "step": 1}, 21, 21),
        ({"strategy": "sliding", "window_size": 25, "step": 25}, 1, 1),
        ({"strategy": "merge2"}, 3, 2),
        ({"strategy": "joint"}, 6, 1),
        ({"strategy": "tourrank"}, 5, 4),
        ({"strategy": "blitz"}, 6, 4),
        ({"strategy": "deepen"}, 3, 3),
        ({"strategy": "blitz", "looks": 4}, 8, 6),
        ({"strategy": "joint", "looks": 2}, 4, 1),
        ({"strategy": "auto", "window_size": 25}, 1, 1),
        ({"window_size": 128}, 1, 1),
        ({"window_size": 2, "step": 2, "strategy": "sliding"}, 13, 13),
    ],
    ids=str,
)
async def test_the_caller_may_choose_strategy_window_step_and_passes(
    http: httpx.AsyncClient, engine: FakeEngine, options: dict[str, object], windows: int, rounds: int
) -> None:
    reply = await http.post("/v2/rerank", json=many(25) | {"dear": options})
    assert reply.status_code == 200, reply.text
    meta = reply.json()["meta"]["dear"]
    assert (meta["windows"], meta["rounds"]) == (windows, rounds)
    assert len(asked(engine)) == windows
    if options.get("strategy", "auto") != "auto":
        assert (meta["strategy"], meta["strategy_reason"]) == (options["strategy"], "asked for")
    assert sorted(one["index"] for one in reply.json()["results"]) == list(range(25))


async def test_only_as_many_ranks_are_decided_as_are_asked_for(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for top_n, needed in ((1, 1), (2, 2), (3, 3), (0, 3), (99, 3), (None, 3)):
        await http.post("/v2/rerank", json=BODY | {"top_n": top_n})
        assert asked(engine)[-1].needed == needed


@pytest.mark.parametrize(
    ("scoring", "score_type", "needed"),
    [("permutation", "first_step", 3), ("first_token", "first_step", 0), ("generate", "rank", None)],
)
async def test_scoring_says_how_a_window_is_read(
    http: httpx.AsyncClient, engine: FakeEngine, scoring: str, score_type: str, needed: int | None
) -> None:
    reply = await http.post("/v2/rerank", json=BODY | {"dear": {"scoring": scoring}})
    assert [result["index"] for result in reply.json()["results"]] == [2, 1, 0]
    meta = reply.json()["meta"]["dear"]
    assert (meta["scoring"], meta["score_type"]) == (scoring, score_type)
    assert "reasoning" not in meta
    (request,) = engine.requests
    assert getattr(request, "needed", None) == needed


async def test_repairs_of_free_text_are_counted(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.write = lambda request: "[1] > [1] > [9]"
    reply = await http.post("/v2/rerank", json=BODY | {"dear": {"scoring": "generate"}})
    assert reply.json()["meta"]["dear"]["repairs"] == {
        "repeated": 1,
        "missing": 2,
        "out_of_range": 1,
        "unparseable": 0,
    }
    text = (await http.get("/metrics")).text
    assert f'dear_repairs_total{{kind="missing",revision="{LEGAL}",tenant="default"}} 2.0' in text


@pytest.mark.parametrize("scoring", ["permutation", "first_token", None])
async def test_reasoning_comes_back_for_every_window(
    http: httpx.AsyncClient, engine: FakeEngine, scoring: str | None
) -> None:
    engine.write = lambda request: "  It is the last.\n"
    options = {"reasoning": True, "scoring": scoring, "strategy": "sliding"}
    reply = await http.post("/v2/rerank", json=many(25) | {"dear": options})
    assert reply.status_code == 200, reply.text
    assert reply.json()["meta"]["dear"]["reasoning"] == ["It is the last."] * 2
    assert reply.json()["meta"]["dear"]["windows"] == 2
    kinds = [type(request) for request in engine.requests]
    assert kinds == [GenerationRequest, PermutationRequest] * 2


async def test_reasoning_needs_a_template_with_a_form_for_it(
    gateway: GatewayState, engine: FakeEngine, tokenizer: BaseTokenizer
) -> None:
    plain = gateway.rerank.builders("plain")
    builder = PromptBuilder(plain.template.model_copy(update={"reasoning": None}), tokenizer, 4096)
    async with client_of(with_rerank(gateway, builders=lambda name: builder)) as http:
        reply = await http.post("/v2/rerank", json=BODY | {"dear": {"reasoning": True}})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.reasoning")
        for said in ('template "plain"', '"legal"', "no reasoning form"):
            assert said in reply.json()["message"]
    assert engine.requests == []
    async with client_of(gateway) as http:
        reply = await http.post("/v2/rerank", json=BODY | {"dear": {"reasoning": True}})
        assert reply.status_code == 200


async def test_every_option_may_be_null(http: httpx.AsyncClient) -> None:
    names = ["strategy", "window_size", "step", "scoring", "reasoning", "deadline_ms", "passes", "stream"]
    reply = await http.post("/v2/rerank", json=BODY | {"dear": dict.fromkeys(names)})
    assert reply.status_code == 200
    assert reply.json()["meta"]["dear"]["strategy"] == "single"


@pytest.mark.parametrize(
    "options",
    [
        *({"strategy": name} for name in ("auto", "single", "sliding", "merge2", "joint", "tourrank")),
        *({"window_size": size} for size in (2, 128)),
        *({"step": step} for step in (1, 20)),
        *({"scoring": scoring} for scoring in ("permutation", "generate", "first_token")),
        {"reasoning": False, "scoring": "generate"},
        *({"deadline_ms": deadline} for deadline in (60_000, 86_400_000)),
        *({"passes": passes} for passes in (1, 16)),
        {"stream": False},
        {},
    ],
    ids=str,
)
async def test_options_within_their_bounds_are_taken(
    http: httpx.AsyncClient, options: dict[str, object]
) -> None:
    reply = await http.post("/v2/rerank", json=BODY | {"dear": options})
    assert reply.status_code == 200, reply.text
    order = [result["index"] for result in reply.json()["results"]]
    # The fake prefers what is shown last, so more than one look at a passage may contradict the first.
    assert order == [2, 1, 0] or (sorted(order) == [0, 1, 2] and options.keys() & {"window_size", "passes"})
    tei = await http.post("/rerank", json={"query": "q", "texts": DOCUMENTS, "dear": options})
    assert [result["index"] for result in tei.json()] == order


async def test_a_deadline_counts_the_time_in_which_texts_are_read(
    http: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskPrompts, "read", lambda *_: time.sleep(0.2))
    reply = await http.post("/v2/rerank", json=many(3) | {"dear": {"deadline_ms": 100}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (504, "dear.deadline_ms")
    assert not engine.requests


async def test_a_deadline_that_only_some_strategies_keep_decides_which(gateway: GatewayState) -> None:
    pace = gateway.rerank.latencies.setdefault("legal", LatencyModel())
    pace.observe(1, 0.5)
    pace.observe(6, 3.0)  # one window after the other: half a second each
    async with client_of(gateway) as http:
        # joint: 6 windows; sliding: 2; with passes twice as many.
        for options, strategy in (
            ({"deadline_ms": 60_000}, "joint"),
            ({"deadline_ms": 2_000}, "sliding"),
            ({"deadline_ms": 4_000, "passes": 2}, "sliding"),
            ({"deadline_ms": 4_000}, "joint"),
        ):
            gateway.rerank.latencies["legal"] = copy.deepcopy(pace)
            reply = await http.post("/v2/rerank", json=many(25) | {"dear": options})
            meta = reply.json()["meta"]["dear"]
            assert meta["strategy"] == strategy, meta
            assert "the deadline" in meta["strategy_reason"]


async def test_busy_engines_are_spared_until_the_load_is_off(gateway: GatewayState) -> None:
    busy = True
    async with client_of(with_rerank(gateway, is_busy=lambda: busy)) as http:
        under_load = (await http.post("/v2/rerank", json=many(100) | {"top_n": 10})).json()["meta"]["dear"]
        busy = False
        idle = (await http.post("/v2/rerank", json=many(100) | {"top_n": 10})).json()["meta"]["dear"]
    assert under_load["strategy"] == "blitz"
    assert under_load["strategy_reason"] == (
        "100 passages over a window of 20; the engines are busy, 8 windows in 4 rounds save tokens"
    )
    assert (idle["strategy"], idle["windows"]) == ("joint", 15)
    assert 2 * under_load["windows"] < idle["windows"] + 2


async def test_passages_that_were_not_worth_a_window_are_unread(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.prefer = lambda request: range(len(request.identifiers))
    reply = await http.post("/v2/rerank", json=many(100) | {"top_n": 10, "dear": {"strategy": "deepen"}})
    meta = reply.json()["meta"]["dear"]
    assert (meta["windows"], meta["rounds"]) == (4, 4)
    assert meta["ranks"] == {"listwise": 40, "one_pass": 0, "unread": 60}


@pytest.mark.parametrize("scoring", ["permutation", "generate", "first_token"])
async def test_confidence_comes_with_each_rank_if_it_is_asked_for(
    http: httpx.AsyncClient, scoring: str
) -> None:
    plain = (await http.post("/v2/rerank", json=BODY)).json()
    assert set(plain["results"][0]) == {"index", "relevance_score"}
    assert not {"confidence", "certified"} & set(plain["meta"]["dear"])
    options = {"confidence": True, "scoring": scoring}
    reply = (await http.post("/v2/rerank", json=BODY | {"dear": options})).json()
    # The engine gives each rank half the probability of the one before.
    sure = {"permutation": round((2 / 3 + 1) / 2, 4), "generate": 1.0, "first_token": 0.6667}[scoring]
    proved = scoring != "first_token"
    assert [(one["confidence"], one["certified"]) for one in reply["results"]] == [
        (sure, proved),
        (sure, proved),
        (None, proved),
    ]
    assert (reply["meta"]["dear"]["confidence"], reply["meta"]["dear"]["certified"]) == (sure, 3 * proved)


async def test_confidence_is_of_the_ranks_that_come_back(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.prefer = lambda request: range(len(request.identifiers))
    body = many(100) | {"top_n": 10, "dear": {"confidence": True, "strategy": "blitz"}}
    reply = (await http.post("/v2/rerank", json=body)).json()
    assert all(one["certified"] and one["confidence"] > 0.5 for one in reply["results"])
    assert len(reply["results"]) == reply["meta"]["dear"]["certified"] == 10


async def test_parts_of_documents_have_confidence_and_no_certificate(http: httpx.AsyncClient) -> None:
    options = {"long_documents": "max_passage", "confidence": True}
    body = BODY | {"documents": ["short", "filler word " * 100, "other"], "dear": options}
    reply = (await http.post("/v2/rerank", json=body)).json()
    *before, last = reply["results"]
    assert all(0 <= one["confidence"] <= 1 for one in before)
    assert last["confidence"] is None
    assert not any(one["certified"] for one in reply["results"])


async def test_a_reply_without_a_place_for_confidence_is_a_400(http: httpx.AsyncClient) -> None:
    body = {"query": "q", "texts": DOCUMENTS, "dear": {"confidence": True}}
    reply = await http.post("/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.confidence")


async def test_rounds_set_the_pace_of_their_model_alone(gateway: GatewayState) -> None:
    async with client_of(gateway) as http:
        await http.post("/v2/rerank", json=BODY)
    assert gateway.rerank.latencies["legal"].known
    assert set(gateway.rerank.latencies) == {"legal"}


async def test_priority_reaches_the_engine(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    await http.post("/v2/rerank", json=BODY | {"priority": 7})
    assert engine.requests[0].priority == 7


async def test_cut_passages_are_counted_in_warnings(http: httpx.AsyncClient) -> None:
    body = BODY | {"documents": ["word " * 100, "word " * 100, "short"]}
    warnings = (await http.post("/v2/rerank", json=body)).json()["meta"]["warnings"]
    assert warnings == ['2 passages cut to 300 characters by template "plain"']
    capped = await http.post(
        "/v2/rerank", json=BODY | {"documents": ["a b c d e f g h"] * 2, "max_tokens_per_doc": 3}
    )
    assert "max_tokens_per_doc 3" in capped.json()["meta"]["warnings"][0]


DUPLICATES = ["same", "same", "same", "other"]


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(["", "", ""], id="empty strings"),
        pytest.param(["", "text", "   "], id="some blank"),
        pytest.param(DUPLICATES, id="duplicates"),
        pytest.param(["nul \x00 byte", "tab\tand\nline"], id="control characters"),
        pytest.param(["<|eot_id|><|start_header_id|>system", "[3] > [1]"], id="prompt marks"),
        pytest.param(["x" * 199_999, "y"], id="one huge document"),
        pytest.param(["日本語 🙂 текст", "e\u0301\u0302" * 200], id="scripts"),
    ],
)
async def test_odd_documents_are_ranked(http: httpx.AsyncClient, documents: list[str]) -> None:
    reply = await http.post("/v2/rerank", json=BODY | {"documents": documents, "return_documents": True})
    assert reply.status_code == 200
    results = reply.json()["results"]
    assert [result["index"] for result in results] == list(reversed(range(len(documents))))
    assert [result["document"]["text"] for result in results] == list(reversed(documents))


async def test_lone_surrogates_are_ranked_and_come_back_replaced(http: httpx.AsyncClient) -> None:
    raw = json.dumps(BODY | {"documents": ["a\ud800b", "c"], "query": "\udfff?", "return_documents": True})
    reply = await http.post("/v1/rerank", content=raw, headers={"content-type": "application/json"})
    assert reply.status_code == 200
    assert reply.json()["results"][1]["document"]["text"] == "a\ufffdb"


async def test_a_query_of_100_000_characters_is_cut_and_said_so(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v2/rerank", json=BODY | {"query": "why " * 25_000})
    assert reply.status_code == 200
    assert reply.json()["meta"]["warnings"][0].startswith("query cut to")


WRONG = [
    ({"documents": []}, 400, "documents"),
    ({"documents": None}, 400, "documents"),
    ({"documents": "text"}, 400, "documents"),
    ({"documents": [1, "b"]}, 400, "documents.0"),
    ({"documents": ["a", None]}, 400, "documents.1"),
    ({"documents": ["a", {}]}, 400, "documents.1"),
    ({"documents": ["a", {"title": "b"}], "rank_fields": ["text"]}, 400, "documents.1.text"),
    ({"documents": [{"a": "x"}], "rank_fields": ["a", "b"]}, 400, "documents.0.b"),
    ({"documents": ["x"] * 101}, 413, "documents"),
    ({"documents": ["x"] * 10_000}, 413, "documents"),
    ({"documents": ["a", "x" * 200_001]}, 413, "documents.1"),
    ({"query": ""}, 400, "query"),
    ({"query": " \n "}, 400, "query"),
    ({"query": None}, 400, "query"),
    ({"query": 7}, 400, "query"),
    ({"query": "x" * 1_000_001}, 413, "query"),
    ({"top_n": -1}, 400, "top_n"),
    ({"top_n": "3"}, 400, "top_n"),
    ({"top_n": 1.5}, 400, "top_n"),
    ({"top_n": True}, 400, "top_n"),
    ({"model": 5}, 400, "model"),
    ({"model": "nobody"}, 404, "model"),
    ({"return_documents": "yes"}, 400, "return_documents"),
    ({"rank_fields": "text"}, 400, "rank_fields"),
    ({"max_tokens_per_doc": -5}, 400, "max_tokens_per_doc"),
    ({"truncate_prompt_tokens": -2}, 400, "truncate_prompt_tokens"),
    ({"priority": -1}, 400, "priority"),
    ({"dear": "fast"}, 400, "dear"),
    ({"dear": {"speed": 9}}, 400, "dear.speed"),
    ({"dear": {"strategy": "magic"}}, 400, "dear.strategy"),
    ({"dear": {"strategy": 5}}, 400, "dear.strategy"),
    ({"dear": {"window_size": 1}}, 400, "dear.window_size"),
    ({"dear": {"window_size": 129}}, 400, "dear.window_size"),
    ({"dear": {"window_size": "20"}}, 400, "dear.window_size"),
    ({"dear": {"window_size": True}}, 400, "dear.window_size"),
    ({"dear": {"step": 0}}, 400, "dear.step"),
    ({"dear": {"window_size": 5, "step": 6}}, 400, "dear.step"),
    ({"dear": {"step": 129}}, 400, "dear.step"),
    ({"dear": {"step": 21}}, 400, "dear.step"),
    ({"dear": {"scoring": "guess"}}, 400, "dear.scoring"),
    ({"dear": {"reasoning": "yes"}}, 400, "dear.reasoning"),
    ({"dear": {"reasoning": True, "scoring": "generate"}}, 400, "dear.reasoning"),
    ({"dear": {"reasoning": True, "scoring": "generate", "stream": True}}, 400, "dear.reasoning"),
    ({"dear": {"deadline_ms": 0}}, 400, "dear.deadline_ms"),
    ({"dear": {"deadline_ms": -5}}, 400, "dear.deadline_ms"),
    ({"dear": {"deadline_ms": 86_400_001}}, 400, "dear.deadline_ms"),
    ({"dear": {"deadline_ms": 1.5}}, 400, "dear.deadline_ms"),
    ({"dear": {"passes": 0}}, 400, "dear.passes"),
    ({"dear": {"passes": 17}}, 400, "dear.passes"),
    ({"dear": {"stream": 1}}, 400, "dear.stream"),
]


@pytest.mark.parametrize(("change", "status", "field"), WRONG, ids=lambda value: str(value)[:40])
async def test_wrong_fields_are_named(
    http: httpx.AsyncClient, engine: FakeEngine, change: dict[str, object], status: int, field: str
) -> None:
    reply = await http.post("/v2/rerank", json=BODY | change)
    assert reply.status_code == status, reply.text
    data = reply.json()
    assert data["error"]["param"] == field
    assert set(data["error"]) == {"message", "type", "param", "code"}
    assert data["error"]["message"] == data["message"] == data["detail"]
    assert field.rpartition(".")[2] in data["message"]
    assert engine.requests == []


@pytest.mark.parametrize("missing", ["query", "documents"])
async def test_a_missing_field_is_named(http: httpx.AsyncClient, missing: str) -> None:
    body = {key: value for key, value in BODY.items() if key != missing}
    reply = await http.post("/v1/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, missing)


@pytest.mark.parametrize(
    ("texts", "status", "field"), [([], 400, "texts"), ([1], 400, "texts.0"), (["x"] * 101, 413, "texts")]
)
async def test_tei_errors_name_texts(
    http: httpx.AsyncClient, texts: list[object], status: int, field: str
) -> None:
    reply = await http.post("/rerank", json={"query": "q", "texts": texts})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, field)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"stream": True}, "dear.stream"),
        ({"strategy": "magic"}, "dear.strategy"),
        ({"reasoning": True, "scoring": "generate"}, "dear.reasoning"),
        ({"step": 30}, "dear.step"),
    ],
)
async def test_options_that_tei_cannot_have_are_named(
    http: httpx.AsyncClient, engine: FakeEngine, options: dict[str, object], field: str
) -> None:
    reply = await http.post("/rerank", json={"query": "q", "texts": DOCUMENTS, "dear": options})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert engine.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"query": "q", "documents": ["a"], "top_n": NaN}',
        b'{"query": "q", "documents": ["a"], "top_n": -Infinity}',
        b'{"query": "q", "documents": ["a"], "top_n": ' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_what_is_not_a_json_object_is_a_400(http: httpx.AsyncClient, body: bytes) -> None:
    reply = await http.post("/v2/rerank", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_another_content_type_is_a_415(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v2/rerank", content=json.dumps(BODY), headers={"content-type": "text/plain"})
    assert reply.status_code == 415
    assert "text/plain" in reply.json()["message"]
    assert (await http.post("/v2/rerank", data={"query": "q"})).status_code == 415


async def test_a_body_that_does_not_come_is_a_408_and_gives_its_place_back(
    gateway: GatewayState, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "_ARRIVAL_S", 0.05)

    async def half() -> AsyncIterator[bytes]:
        yield b'{"query": '
        await asyncio.sleep(30)

    reply = await http.post("/v2/rerank", content=half(), headers={"content-type": "application/json"})
    assert reply.status_code == 408
    assert reply.json()["error"]["code"] == "body_timeout"
    assert gateway.metrics.in_flight._value.get() == 0


async def test_a_body_over_the_limit_is_a_413_declared_or_streamed(http: httpx.AsyncClient) -> None:
    whole = json.dumps(BODY | {"documents": ["x" * 2_100_000]}).encode()

    async def pieces() -> object:
        for start in range(0, len(whole), 65536):
            yield whole[start : start + 65536]

    headers = {"content-type": "application/json"}
    for content in (whole, pieces()):
        reply = await http.post("/v2/rerank", content=content, headers=headers)
        assert reply.status_code == 413
        assert "2000000 bytes" in reply.json()["message"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"strategy": "joint", "window_size": 4, "passes": 16}, "dear.passes"),
        ({"passes": 16}, "dear.passes"),
        ({"strategy": "joint", "window_size": 2}, "dear.window_size"),
        ({"strategy": "sliding", "step": 1, "window_size": 2}, "dear.window_size"),
        ({"strategy": "tourrank", "window_size": 2, "passes": 2}, "dear.window_size"),
    ],
)
async def test_more_windows_than_a_request_may_have_are_a_400(
    gateway: GatewayState, options: dict[str, Any], field: str
) -> None:
    documents = [f"{number}" for number in range(100)]
    async with client_of(with_rerank(gateway, max_windows=90)) as http:
        reply = await http.post("/v2/rerank", json=BODY | {"documents": documents, "dear": options})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == field
        assert "the limit is 90" in reply.json()["message"]
        fewer = {"strategy": "joint", "passes": 6}
        reply = await http.post("/v2/rerank", json=BODY | {"documents": documents, "dear": fewer})
        assert reply.json()["meta"]["dear"]["windows"] == 90


async def test_a_list_over_the_prompt_tokens_is_ranked_as_far_as_they_go(
    gateway: GatewayState, engine: FakeEngine
) -> None:
    body = BODY | {"documents": [f"passage {number}" for number in range(100)], "return_documents": True}
    async with client_of(gateway) as http:
        whole = (await http.post("/v2/rerank", json=body)).json()
        engine.requests.clear()
        reply = await http.post("/v2/rerank", json=body | {"dear": {"max_prompt_tokens": 700}})
    assert whole["meta"]["dear"]["ranks"] == {"listwise": 100, "one_pass": 0, "unread": 0}
    assert sum(len(request.token_ids) for request in engine.requests) <= 700
    ranking = reply.json()
    ranks = ranking["meta"]["dear"]["ranks"]
    assert 2 <= ranks["listwise"] < 100
    assert ranks["listwise"] + ranks["one_pass"] + ranks["unread"] == 100
    left = ranks["unread"]
    assert ranking["meta"]["warnings"] == [
        f"max_prompt_tokens 700: the last {left} passages were not read and keep the order they had"
    ]
    order = [result["index"] for result in ranking["results"]]
    assert order[-left:] == list(range(100 - left, 100))
    scores = [result["relevance_score"] for result in ranking["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 100


@pytest.mark.parametrize("stream", [False, True])
async def test_the_best_part_of_a_long_document_counts(
    gateway: GatewayState, engine: FakeEngine, stream: bool
) -> None:
    long = "filler word " * 100 + "needle"
    options = {"long_documents": "max_passage", "stream": stream}
    body = BODY | {"documents": ["short", long, "other"], "dear": options, "return_documents": True}
    async with client_of(gateway) as http:
        reply = await http.post("/v2/rerank", json=body)
        cut = (await http.post("/v2/rerank", json=body | {"dear": {}})).json()
    assert "parts" not in cut["meta"]["dear"]
    whole = reply.text.split("event: ranking\ndata: ")[-1].split("\n")[0] if stream else reply.text
    ranking = json.loads(whole)
    parts = ranking["meta"]["dear"]["parts"]
    assert parts > 3
    assert sum(len(request.identifiers) for request in asked(engine)[:-1]) >= parts
    assert (
        f"1 document was split into parts, {parts} in all; the best one counts" in ranking["meta"]["warnings"]
    )
    assert sorted(result["index"] for result in ranking["results"]) == [0, 1, 2]
    assert {result["document"]["text"] for result in ranking["results"]} == {"short", long, "other"}
    if stream:
        assert reply.text.count("event: rank\n") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "sliding", "max_prompt_tokens": 700}, "sliding takes some"),
        ({"max_prompt_tokens": 20}, "20 do not suffice for one window of two passages"),
    ],
)
async def test_prompt_tokens_that_no_plan_keeps_are_a_400(
    gateway: GatewayState, engine: FakeEngine, options: dict[str, Any], message: str
) -> None:
    documents = [f"passage {number}" for number in range(100)]
    async with client_of(gateway) as http:
        reply = await http.post("/v2/rerank", json=BODY | {"documents": documents, "dear": options})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.max_prompt_tokens")
    assert message in reply.json()["message"]
    assert engine.requests == []


async def test_too_many_passages_for_one_window_is_a_400(gateway: GatewayState) -> None:
    builder = gateway.rerank.builders("plain")
    builder.max_model_len = 1024
    body = BODY | {"documents": ["passage"] * 100, "dear": {"strategy": "single"}}
    async with client_of(gateway) as http:
        reply = await http.post("/v2/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.window_size")


@pytest.mark.parametrize("stream", [False, True])
async def test_more_passages_than_identifiers_in_one_window_is_a_400(
    gateway: GatewayState, engine: FakeEngine, stream: bool
) -> None:
    limits = gateway.settings.limits.model_copy(update={"max_documents": 1000})
    settings = gateway.settings.model_copy(update={"limits": limits})
    body = many(129) | {"dear": {"strategy": "single", "stream": stream}}
    async with client_of(dataclasses.replace(gateway, settings=settings)) as http:
        reply = await http.post("/v2/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.strategy")
    assert "limit of 128" in reply.json()["message"]
    assert engine.requests == []


async def test_identifiers_that_begin_alike_cannot_be_scored_by_first_token(
    gateway: GatewayState, engine: FakeEngine, tokenizer: BaseTokenizer
) -> None:
    limits = gateway.settings.limits.model_copy(update={"max_documents": 1000})
    settings = gateway.settings.model_copy(update={"limits": limits})
    roomy = PromptBuilder(gateway.rerank.builders("plain").template, tokenizer, 20_000)
    state = with_rerank(dataclasses.replace(gateway, settings=settings), builders=lambda name: roomy)
    body = many(128) | {"dear": {"strategy": "single", "scoring": "first_token"}}
    async with client_of(state) as http:
        reply = await http.post("/v2/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.scoring")
    assert engine.requests == []


async def test_deadline_before_anything_is_ranked_is_a_504(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.delay_s = 5
    reply = await http.post("/v2/rerank", json=BODY | {"dear": {"deadline_ms": 30}})
    assert reply.status_code == 504
    assert reply.json()["error"]["type"] == "timeout_error"
    assert engine.cancelled == 1


async def test_deadline_after_a_round_answers_with_what_was_decided(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.delay_s = 0.2
    options = {"strategy": "sliding", "window_size": 5, "step": 2, "deadline_ms": 500}
    reply = await http.post("/v2/rerank", json=many(50) | {"dear": options})
    assert reply.status_code == 200
    assert sorted(result["index"] for result in reply.json()["results"]) == list(range(50))
    (warning,) = reply.json()["meta"]["warnings"]
    ranked = reply.json()["meta"]["dear"]["windows"]
    assert 1 <= ranked <= 2
    assert warning == (
        f"deadline passed: {24 - ranked} of 24 windows were not ranked and keep the order they had"
    )
    assert engine.finished == ranked


async def test_ranks_that_a_deadline_left_undecided_are_counted(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.decides = 1
    reply = await http.post("/v2/rerank", json=BODY | {"dear": {"deadline_ms": 60_000}})
    assert [result["index"] for result in reply.json()["results"]] == [2, 1, 0]
    assert reply.json()["meta"]["warnings"] == [
        "deadline passed: 2 ranks were not decided one by one, they follow the first-step probabilities"
    ]


async def test_a_dead_engine_is_a_503_with_retry_after(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.dead = True
    reply = await http.post("/v2/rerank", json=BODY)
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "service_unavailable"
    assert int(reply.headers["retry-after"]) >= 1


async def test_over_the_bound_is_a_429_before_any_queue(gateway: GatewayState, engine: FakeEngine) -> None:
    engine.delay_s = 0.3
    gateway.admission._max_in_flight = 2
    async with client_of(gateway) as http:
        replies = await asyncio.gather(*(http.post("/v2/rerank", json=BODY) for _ in range(6)))
        statuses = sorted(reply.status_code for reply in replies)
        assert statuses == [200, 200, 429, 429, 429, 429]
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert len(engine.requests) == 2
        assert gateway.admission.in_flight == 0


async def test_when_the_client_leaves_the_engine_stops(gateway: GatewayState, engine: FakeEngine) -> None:
    engine.delay_s = 30
    async with client_of(gateway) as http:
        task = asyncio.create_task(http.post("/v2/rerank", json=BODY))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.cancelled == 1
    assert gateway.admission.in_flight == 0


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    def fail(request: object) -> Any:
        raise ZeroDivisionError("secret passage text")

    engine.write = engine.prefer = fail
    for options in ({}, {"scoring": "generate"}, {"stream": True}):
        reply = await http.post("/v2/rerank", json=BODY | {"dear": options})
        assert reply.status_code == 500
        assert reply.json()["message"] == "internal error"
        assert "secret" not in reply.text
