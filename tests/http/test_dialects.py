"""Every dialect of the table: what it takes, what it answers, and what it says of the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import RequestError
from dear_serving.gateway.state import GatewayState
from dear_serving.http.dialects.dialect import Dialect
from dear_serving.http.dialects.parse import parse_rerank
from dear_serving.http.dialects.table import DIALECTS, PATHS, SHARED_PATHS
from dear_serving.http.openapi import WARNINGS
from dear_serving.types import Ranking
from tests.conftest import ROOT, client_of
from tests.support.fake_engine import FakeEngine

QUERY, DOCUMENTS = "which letter?", ["alpha", "beta", "gamma"]
COHERE_LIKE = ("cohere", "jina", "vllm", "contextual", "dashscope", "together", "sglang")
NAMES = list(DIALECTS)
OBJECTS = ("cohere", "jina", "vllm", "contextual", "dashscope", "together", "sglang", "pinecone")
INSTRUCTED = (*COHERE_LIKE, "vllm-score", "mixedbread")


def bedrock(query: Any, documents: Any, model: Any) -> dict[str, Any]:
    """Bedrock's request."""
    texts = [{"type": "TEXT", "textDocument": {"text": text}} for text in documents]
    return {
        "queries": [{"type": "TEXT", "textQuery": {"text": query}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": text} for text in texts],
        "rerankingConfiguration": {
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {"modelConfiguration": {"modelArn": model}},
        },
    }


def cohere(query: Any, documents: Any, model: Any) -> dict[str, Any]:
    """Cohere's request, which many have."""
    return {"model": model, "query": query, "documents": documents}


BODIES: dict[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    **dict.fromkeys(COHERE_LIKE, cohere),
    "zeroentropy": cohere,
    "voyage": lambda query, documents, model: cohere(query, documents, model) | {"truncation": True},
    "pinecone": lambda query, documents, model: {
        **cohere(query, [{"text": text} for text in documents], model),
        "rank_fields": ["text"],
        "return_documents": False,
    },
    "tei": lambda query, documents, model: {"model": model, "query": query, "texts": documents},
    "nvidia": lambda query, documents, model: {
        "model": model,
        "query": {"text": query},
        "passages": [{"text": text} for text in documents],
    },
    "vllm-score": lambda query, documents, model: {
        "model": model,
        "queries": query,
        "documents": documents,
    },
    "mixedbread": lambda query, documents, model: {"model": model, "query": query, "input": documents},
    "bedrock": bedrock,
    "vertex": lambda query, documents, model: {
        "model": model,
        "query": query,
        "records": [{"id": f"{place}", "content": text} for place, text in enumerate(documents)],
    },
}
LISTS = {
    "voyage": "data",
    "pinecone": "data",
    "vllm-score": "data",
    "mixedbread": "data",
    "nvidia": "rankings",
}
SCORES = {
    **dict.fromkeys(("tei", "sglang", "pinecone", "vllm-score", "mixedbread", "vertex"), "score"),
    "nvidia": "logit",
    "bedrock": "relevanceScore",
}
TOPS = {"voyage": "top_k", "mixedbread": "top_k", "vertex": "topN"}
NO_TOP = ("tei", "nvidia", "vllm-score", "bedrock")  # bedrock's is deeper in its body

each_dialect = pytest.mark.parametrize("name", NAMES)


def path_of(name: str, path: str | None = None) -> str:
    """A path that is the dialect's alone."""
    dialect = DIALECTS[name]
    return dialect.folder + (path or dialect.paths[0]).format(**dialect.parameters)


def body_of(
    name: str, query: Any = QUERY, documents: Any = DOCUMENTS, model: Any = "legal"
) -> dict[str, Any]:
    """A body of the dialect."""
    return BODIES[name](query, documents, model)


def results_of(name: str, reply: Any) -> list[dict[str, Any]]:
    """The results in a reply."""
    default = "records" if name == "vertex" else "results"
    found = reply if isinstance(reply, list) else reply[LISTS.get(name, default)]
    assert isinstance(found, list)
    return found


def order_of(name: str, reply: Any) -> list[int]:
    """The indices in a reply, best first."""
    score = SCORES.get(name, "relevance_score")
    found = sorted(results_of(name, reply), key=lambda result: -result[score])
    return [int(result["id"]) if name == "vertex" else result["index"] for result in found]


def warnings_of(reply: httpx.Response) -> list[str]:
    """What a reply says of the request, wherever it has the place for it."""
    data = reply.json()
    if isinstance(data, dict) and "meta" in data:
        assert WARNINGS not in reply.headers
        return list(data["meta"]["warnings"])
    return list(json.loads(reply.headers.get(WARNINGS, "[]")))


# --- what they answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in NAMES for path in DIALECTS[name].paths])
async def test_a_dialect_is_answered_on_each_of_its_paths(
    http: httpx.AsyncClient, name: str, path: str
) -> None:
    alone = await http.post(path_of(name, path), json=body_of(name))
    assert alone.status_code == 200, alone.text
    assert order_of(name, alone.json()) == [2, 1, 0]
    assert warnings_of(alone) == []
    own = path.format(**DIALECTS[name].parameters)
    told = {"instruct": "Be strict."} if name == "sglang" else {}
    shared = await http.post(own, json=body_of(name) | told, headers={"api-key": "any"})
    assert shared.status_code == 200, shared.text
    if name in {one.name for one in PATHS[path]}:
        assert order_of(name, shared.json()) == [2, 1, 0]
        assert type(shared.json()) is type(alone.json())


@each_dialect
async def test_every_example_is_of_its_dialect_alone(http: httpx.AsyncClient, name: str) -> None:
    for example in DIALECTS[name].examples.values():
        reply = await http.post(path_of(name), json=example)
        assert reply.status_code == 200, reply.text
        if not reply.headers["content-type"].startswith("text/event-stream"):
            assert warnings_of(reply) == []


@pytest.mark.parametrize(
    ("name", "keys", "result_keys"),
    [
        ("cohere", {"id", "model", "object", "results", "usage", "meta"}, {"index", "relevance_score"}),
        ("tei", None, {"index", "score"}),
        ("voyage", {"object", "data", "model", "usage"}, {"index", "relevance_score"}),
        ("nvidia", {"rankings"}, {"index", "logit"}),
        (
            "vllm-score",
            {"id", "object", "created", "model", "data", "usage"},
            {"index", "object", "score"},
        ),
        ("contextual", {"results"}, {"index", "relevance_score"}),
        ("dashscope", {"id", "object", "model", "results", "usage"}, {"index", "relevance_score"}),
        ("together", {"id", "object", "model", "results", "usage"}, {"index", "relevance_score"}),
        ("pinecone", {"model", "data", "usage"}, {"index", "score"}),
        (
            "mixedbread",
            {"usage", "model", "data", "object", "top_k", "return_input"},
            {"index", "score", "object"},
        ),
        (
            "zeroentropy",
            {
                "results",
                "actual_latency_mode",
                "e2e_latency",
                "inference_latency",
                "total_bytes",
                "total_tokens",
            },
            {"index", "relevance_score"},
        ),
        ("sglang", None, {"score", "index", "meta_info", "document"}),
        ("bedrock", {"results"}, {"index", "relevanceScore"}),
        ("vertex", {"records"}, {"id", "score", "content"}),
    ],
)
async def test_a_reply_has_the_fields_that_the_dialect_has(
    http: httpx.AsyncClient, name: str, keys: set[str] | None, result_keys: set[str]
) -> None:
    reply = (await http.post(path_of(name), json=body_of(name))).json()
    assert (set(reply) if isinstance(reply, dict) else None) == keys
    results = results_of(name, reply)
    assert [set(result) for result in results] == [result_keys] * 3
    if name != "vllm-score":
        assert [int(one.get("index", one.get("id", -1))) for one in results] == [2, 1, 0]


async def test_scores_come_in_the_order_of_vllms_documents_and_logits_are_log_odds(
    http: httpx.AsyncClient,
) -> None:
    scored = (await http.post("/score", json=body_of("vllm-score"))).json()["data"]
    assert [one["index"] for one in scored] == [0, 1, 2]
    logits = {one["index"]: one["logit"] for one in (await ranked(http, "nvidia"))["rankings"]}
    for one in scored:
        assert math.log(one["score"] / (1 - one["score"])) == pytest.approx(logits[one["index"]])


async def ranked(http: httpx.AsyncClient, name: str) -> Any:
    """The reply to a body of the dialect."""
    return (await http.post(path_of(name), json=body_of(name))).json()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_TOP])
@pytest.mark.parametrize(("top", "count"), [(None, 3), (0, 3), (2, 2), (99, 3)])
async def test_a_dialect_gives_as_many_results_as_are_asked_for(
    http: httpx.AsyncClient, engine: FakeEngine, name: str, top: int | None, count: int
) -> None:
    body = body_of(name) | {TOPS.get(name, "top_n"): top}
    reply = await http.post(path_of(name), json=body)
    assert order_of(name, reply.json()) == [2, 1, 0][:count]
    assert engine.requests[-1].needed == count  # type: ignore[union-attr]


async def test_bedrock_gives_as_many_results_as_are_asked_for(http: httpx.AsyncClient) -> None:
    body = body_of("bedrock", model="arn:aws:bedrock:us-west-2::foundation-model/legal")
    body["rerankingConfiguration"]["bedrockRerankingConfiguration"]["numberOfResults"] = 1
    reply = await http.post("/rerank", json=body)
    assert order_of("bedrock", reply.json()) == [2]


async def test_documents_come_back_where_they_are_asked_for(http: httpx.AsyncClient) -> None:
    for name, asked, field, document in (
        ("voyage", {"return_documents": True}, "document", "gamma"),
        ("together", {"return_documents": True}, "document", {"text": "gamma"}),
        ("sglang", {}, "document", "gamma"),
        ("pinecone", {"return_documents": None}, "document", {"text": "gamma"}),
        ("mixedbread", {"return_input": True}, "input", "gamma"),
        ("vertex", {}, "content", "gamma"),
    ):
        reply = await http.post(path_of(name), json=body_of(name) | asked)
        assert results_of(name, reply.json())[0][field] == document
    hidden = body_of("vertex") | {"ignoreRecordDetailsInResponse": True}
    reply = await http.post(path_of("vertex"), json=hidden)
    assert set(results_of("vertex", reply.json())[0]) == {"id", "score"}


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]
)
@pytest.mark.parametrize("query", [QUERY, [QUERY], [QUERY] * 3])
async def test_vllms_pairs_have_four_names(
    http: httpx.AsyncClient, names: tuple[str, str], query: Any
) -> None:
    reply = await http.post("/v1/score", json=dict(zip(names, (query, DOCUMENTS), strict=True)))
    assert order_of("vllm-score", reply.json()) == [2, 1, 0]


# --- which one it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "headers", "result"),
    [
        ("/v1/rerank", {}, {}, "relevance_score"),
        ("/v1/rerank", {"truncation": None, "top_k": None, "instruct": None}, {}, "relevance_score"),
        ("/v1/rerank", {"top_k": 3}, {}, "data"),
        ("/rerank", {"truncation": False}, {}, "data"),
        ("/v2/rerank", {"truncation": True}, {}, "relevance_score"),
        ("/v1/rerank", {"instruct": "Be strict."}, {}, "array"),
        ("/rerank", {"rank_fields": ["text"]}, {"api-key": "k"}, "data"),
        ("/rerank", {"rank_fields": ["text"]}, {}, "relevance_score"),
        ("/rerank", {}, {"api-key": "k"}, "relevance_score"),
    ],
)
async def test_a_body_tells_its_dialect_where_a_path_has_several(
    http: httpx.AsyncClient, path: str, fields: dict[str, Any], headers: dict[str, str], result: str
) -> None:
    body = cohere(QUERY, [{"text": text} for text in DOCUMENTS], "legal") | fields
    if "top_k" in fields or "truncation" in fields:
        body["documents"] = DOCUMENTS
    data = (await http.post(path, json=body, headers=headers)).json()
    if result == "array":
        assert [one["index"] for one in data] == [2, 1, 0]
    else:
        found = data["data"] if result == "data" else data["results"]
        assert [one["index"] for one in found] == [2, 1, 0]


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/rerank", {"texts": ["x"]}, ["texts"]),
        ("/v1/rerank", {"top_k": 2, "top_n": 1}, ["top_n"]),
        ("/v2/rerank", {"truncation": True, "top_k": 1}, ["top_k", "truncation"]),
        ("/v1/rerank", {"user": "me", "overrides": {"x": 1}, "nothing": None}, ["overrides", "user"]),
        ("/v1/rerank", {"instruct": "x", "input": ["x"]}, ["input"]),
    ],
)
async def test_fields_of_another_dialect_are_ignored_and_named(
    http: httpx.AsyncClient, path: str, fields: dict[str, Any], named: list[str]
) -> None:
    reply = await http.post(path, json=cohere(QUERY, DOCUMENTS, "legal") | fields)
    (said,) = warnings_of(reply)
    assert re.fullmatch(r"ignored, since the dialect of [\w ]+ does not have it: (.*)", said)
    assert said.rpartition(": ")[2].split(", ") == named


@each_dialect
async def test_no_field_is_dropped_without_a_word(http: httpx.AsyncClient, name: str) -> None:
    reply = await http.post(path_of(name), json=body_of(name) | {"speed\n\u2028": 1})
    assert reply.status_code == 200
    (said,) = warnings_of(reply)
    assert DIALECTS[name].title in said
    assert said.endswith(": speed\n\u2028")


async def test_many_unknown_fields_make_no_long_header(http: httpx.AsyncClient) -> None:
    body = body_of("voyage") | {f"{number}{'x' * 1000}": 1 for number in range(1000)}
    (said,) = warnings_of(await http.post(path_of("voyage"), json=body))
    assert len(said) < 1000
    assert said.endswith(" and 990 more")


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("voyage", {"truncation": False}, "truncation false has no effect"),
        ("nvidia", {"truncate": "NONE"}, "truncate NONE has no effect"),
        ("nvidia", {"passages": [{"text": "a", "image": "b"}, {"text": "c"}]}, "passages.0.image"),
        ("tei", {"raw_scores": True}, "raw_scores has no effect"),
        ("tei", {"truncation_direction": "Left"}, "truncation_direction has no effect"),
        ("vllm", {"max_tokens_per_query": 5}, "max_tokens_per_query has no effect"),
        ("vllm", {"chat_template_kwargs": {"mood": 1}}, "chat_template_kwargs.mood has no effect"),
        ("vllm", {"instruction": "a", "instruct": "b"}, "several instructions differ"),
        ("vllm-score", {"text_2": ["x"]}, "queries and documents count, not text_2"),
        ("mixedbread", {"rewrite_query": True}, "rewrite_query has no effect"),
        ("pinecone", {"parameters": {"truncate": "NONE"}}, "parameters.truncate has no effect"),
        ("pinecone", {"parameters": {"mood": 1}}, "parameters.mood has no effect"),
        ("bedrock", {"nextToken": "x"}, "nextToken"),
    ],
)
async def test_what_is_known_and_has_no_effect_is_said(
    http: httpx.AsyncClient, name: str, fields: dict[str, Any], said: str
) -> None:
    reply = await http.post(path_of(name), json=body_of(name) | fields)
    assert reply.status_code == 200, reply.text
    (warning,) = warnings_of(reply)
    assert said in warning


async def test_a_cut_is_said_where_the_reply_has_no_place_for_it(http: httpx.AsyncClient) -> None:
    reply = await http.post(path_of("voyage"), json=body_of("voyage", documents=["word " * 100, "short"]))
    assert warnings_of(reply) == ['1 passage cut to 300 characters by template "plain"']


# --- instructions and objects ---------------------------------------------------------------------


def prompt_of(engine: FakeEngine, gateway: GatewayState) -> str:
    """What the engine was asked last, as text."""
    tokenizer: Any = gateway.openai.tokenizer
    return str(tokenizer.decode(engine.requests[-1].token_ids))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *((name, {"instruction": "Be strict."}) for name in INSTRUCTED),
        ("sglang", {"instruct": "Be strict."}),
        ("dashscope", {"instruct": "Be strict."}),
        ("cohere", {"rerank_instruction": "Be strict."}),
        ("vllm", {"chat_template_kwargs": {"instruction": "Be strict."}}),
        ("vllm", {"chat_template_kwargs": {"instruction": "Be strict."}, "instruction": "Be strict."}),
        *((name, {"dear": {"instruction": "Be strict."}}) for name in NAMES),
    ],
)
async def test_an_instruction_reaches_the_prompt_by_each_of_its_names(
    gateway: GatewayState, http: httpx.AsyncClient, engine: FakeEngine, name: str, fields: dict[str, Any]
) -> None:
    reply = await http.post(path_of(name), json=body_of(name) | fields)
    assert reply.status_code == 200, reply.text
    assert f"{QUERY} (Instruction: Be strict.)" in prompt_of(engine, gateway)
    assert warnings_of(reply) == []
    if DIALECTS[name].has_meta:
        assert reply.json()["meta"]["dear"]["instruction"] == "query"


@pytest.mark.parametrize("instruction", [None, "", "  "])
async def test_a_blank_instruction_is_none(
    http: httpx.AsyncClient, engine: FakeEngine, instruction: str | None
) -> None:
    body = body_of("cohere")
    await http.post("/v2/rerank", json=body)
    for told in ({"instruction": instruction}, {"dear": {"instruction": instruction}}):
        reply = await http.post("/v2/rerank", json=body | told)
        assert engine.requests[-1].token_ids == engine.requests[0].token_ids
        assert "instruction" not in reply.json()["meta"]["dear"]


async def test_our_own_instruction_counts_before_a_dialects(
    gateway: GatewayState, http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = {"instruction": "theirs", "dear": {"instruction": "ours"}}
    reply = await http.post("/v2/rerank", json=body_of("cohere") | told)
    assert "(Instruction: ours)" in prompt_of(engine, gateway)
    assert warnings_of(reply) == ["several instructions differ, and one of them counts"]


@pytest.mark.parametrize("name", [*OBJECTS, "mixedbread"])
async def test_objects_are_read_as_yaml_in_the_callers_order(
    gateway: GatewayState, http: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    field = DIALECTS[name].passages[0]
    objects = [
        {"zeta": "Bulbs", "alpha": 1879, "tags": ["a", "b"], "text": "plain & simple"},
        {"text": "only this: text"},
    ]
    fields = {"rank_fields": ["zeta", "alpha", "tags", "text"]} if name == "pinecone" else {}
    objects = objects[:1] * 2 if fields else objects
    reply = await http.post(path_of(name), json=body_of(name) | {field: objects, **fields})
    assert reply.status_code == 200, reply.text
    prompt = prompt_of(engine, gateway)
    assert "[0] zeta: Bulbs alpha: 1879 tags:   - a   - b text: plain & simple" in prompt
    assert fields or "[1] only this: text" in prompt


async def test_an_object_with_text_alone_is_that_text_to_the_byte(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    texts = ["yes", "a: b", "- x", "  odd\ttext "]
    await http.post("/v2/rerank", json=body_of("cohere", documents=texts))
    await http.post("/v2/rerank", json=body_of("cohere", documents=[{"text": text} for text in texts]))
    assert engine.requests[0].token_ids == engine.requests[1].token_ids


async def test_metadata_follow_their_document(
    gateway: GatewayState, http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = body_of("contextual") | {"metadata": ["from 2024", "", "repealed"]}
    assert (await http.post("/v1/rerank", json=body)).status_code == 200
    prompt = prompt_of(engine, gateway)
    assert "[0] alpha Metadata: from 2024\n[1] beta\n[2] gamma Metadata: repealed" in prompt
    for metadata in (["x"], [1, 2, 3], "x"):
        reply = await http.post("/v1/rerank", json=body | {"metadata": metadata})
        assert (reply.status_code, reply.json()["error"]["param"][:8]) == (400, "metadata")


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({}, 400),
        (dict.fromkeys(map(str, range(1000)), "x"), 400),
        ({"a": [[[[[[[[1]]]]]]]]}, 400),
        ({"a": "x" * 200_001}, 413),
        ({"a": "&anchor *alias !!tag\t\ttabs", "b": "<|eot_id|>[3]"}, 200),
    ],
    ids=["none", "1000 keys", "deep", "long", "odd"],
)
async def test_objects_that_no_model_could_read_are_refused(
    http: httpx.AsyncClient, document: dict[str, Any], status: int
) -> None:
    reply = await http.post("/v2/rerank", json=body_of("cohere", documents=["a", document]))
    assert reply.status_code == status, reply.text
    assert status == 200 or reply.json()["error"]["param"] == "documents.1"


async def test_vertex_records_are_read_with_their_title(
    gateway: GatewayState, http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    records = [{"id": "x", "title": "Fees", "content": "low"}, {"content": "high"}, {"title": "Fines"}]
    reply = await http.post(path_of("vertex"), json=body_of("vertex") | {"records": records})
    assert "[0] title: Fees content: low\n[1] high\n[2] title: Fines" in prompt_of(engine, gateway)
    assert [set(one) for one in reply.json()["records"]][:2] == [{"score", "title"}, {"score", "content"}]


# --- what they refuse -----------------------------------------------------------------------------


def fields_of(dialect: Dialect) -> tuple[str, str]:
    """The names of its query and its passages."""
    return dialect.query[0], dialect.passages[0]


@each_dialect
async def test_bad_input_is_refused_by_the_fields_own_name(
    http: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    query, passages = fields_of(DIALECTS[name])
    for body, status, param in (
        (body_of(name, documents=[]), 400, passages),
        (body_of(name, query="  "), 400, query),
        (body_of(name, documents=["x"] * 101), 413, passages),
        (body_of(name, documents=["a", "x" * 200_001]), 413, f"{passages}.1"),
        (body_of(name, query=7), 400, query),
        (body_of(name, documents=["a", None]), 400, f"{passages}.1"),
        (body_of(name) | {passages: "text"} if name != "vllm-score" else {"queries": 7}, 400, ""),
        (body_of(name) | {passages: None}, 400, ""),
        ({}, 400, ""),
        (body_of(name, model="nobody"), 404, "model"),
        (body_of(name) | {"dear": {"strategy": "magic"}}, 400, "dear.strategy"),
        (body_of(name) | {"dear": {"instruction": "x" * 100_000}}, 413, "instruction"),
        (body_of(name) | {"dear": {"instruction": 7}}, 400, "dear.instruction"),
    ):
        reply = await http.post(path_of(name), json=body)
        assert reply.status_code == status, reply.text
        data = reply.json()
        assert str(data["error"]["param"]).startswith(param), data
        assert data["error"]["message"] == data["message"] == data["detail"]
    assert engine.requests == []


@pytest.mark.parametrize("name", [name for name in NAMES if not DIALECTS[name].has_meta])
async def test_a_dialect_without_a_stream_says_so(http: httpx.AsyncClient, name: str) -> None:
    reply = await http.post(path_of(name), json=body_of(name) | {"dear": {"stream": True}})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.stream")


@pytest.mark.parametrize("name", INSTRUCTED)
async def test_a_long_instruction_of_a_dialects_own_is_a_413(http: httpx.AsyncClient, name: str) -> None:
    reply = await http.post(path_of(name), json=body_of(name) | {"instruction": "x" * 100_000})
    assert (reply.status_code, reply.json()["error"]["param"]) == (413, "instruction")
    assert reply.json()["message"] == "instruction: 100000 characters are over the limit of 10000"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"queries": ["a", "b"], "documents": ["x", "y"]}, "queries"),
        ({"queries": ["a"] * 2, "documents": ["x", "y", "z"]}, "queries"),
        ({"text_1": [], "text_2": ["x"]}, "text_1"),
        ({"queries": "a"}, "queries"),
        ({"data_1": {"content": []}, "data_2": "x"}, "data_1"),
    ],
)
async def test_a_listwise_score_needs_one_query(
    http: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    reply = await http.post("/score", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


@pytest.mark.parametrize(
    "document", [{"type": "TEXT", "jsonDocument": {"a": 1}}, {"type": "JSON"}, {"type": "JPEG"}, {}]
)
async def test_bedrocks_documents_are_what_they_say(
    http: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    body = body_of("bedrock")
    body["sources"][1]["inlineDocumentSource"] = document
    reply = await http.post("/rerank", json=body)
    assert (reply.status_code, reply.json()["error"]["param"][:9]) == (400, "sources.1")


async def test_errors_have_the_fields_that_a_dialects_clients_read(http: httpx.AsyncClient) -> None:
    for name, fields in {
        "pinecone": {"status": 404},
        "bedrock": {"code": "ResourceNotFoundException"},
        "dashscope": {"code": "ModelNotFound"},
    }.items():
        reply = await http.post(path_of(name), json=body_of(name, model="nobody"))
        assert reply.json().items() >= fields.items()
    for path in (path_of("vertex"), f"/compat/vertex{path_of('vertex')}"):
        reply = await http.post(path, json=body_of("vertex", model="nobody"))
        assert reply.json()["error"].items() >= {"code": 404, "status": "NOT_FOUND"}.items()
    bad = await http.post(path_of("bedrock"), json={})
    assert bad.json()["code"] == "ValidationException"
    other = await http.post("/rerank", json={})
    assert set(other.json()) == {"error", "message", "detail"}


FIELDS = sorted({field for dialect in DIALECTS.values() for field in dialect.fields})
EXAMPLES = [example for dialect in DIALECTS.values() for example in dialect.examples.values()]
SIMPLE: list[Any] = [None, True, -1, 0, 2, 1.5, 10**30, "", "x", "\ud800", [], ["a"], [None], [[]], {}, [1]]
NESTED: list[Any] = [{"text": "a"}, {"a": {"b": [1, {"c": None}]}}, [{"text": "x"}, {"k": [1]}]]
odd = st.sampled_from([*SIMPLE, *NESTED])


@given(
    example=st.sampled_from(EXAMPLES),
    changes=st.dictionaries(st.sampled_from([*FIELDS, "speed"]), odd, max_size=4),
    path=st.sampled_from(list(PATHS)),
    has_api_key=st.booleans(),
)
def test_any_mix_of_fields_is_answered_or_refused(
    example: dict[str, Any], changes: dict[str, Any], path: str, has_api_key: bool
) -> None:
    names, body = [one.name for one in PATHS[path]], json.dumps({**example, **changes}).encode()
    try:
        read = parse_rerank(names, has_api_key, 100, 1000, body)
    except RequestError:
        return
    count = len(read.task.passages)
    scores = tuple(1 - rank / max(1, count) for rank in range(count))
    ranking = Ranking(tuple(range(count)), scores, "rank", "single", "", 1, 1, warnings=read.warnings)
    assert json.dumps(DIALECTS[read.dialect].to_reply(read.body, read.task, ranking, "id"))


# --- keys --------------------------------------------------------------------------------------------


async def test_a_key_may_come_as_pinecones_do(with_tenants: GatewayState) -> None:
    admin = {"authorization": "Bearer root"}
    async with client_of(with_tenants) as http:
        await http.post("/admin/v1/tenants", json={"id": "pine"}, headers=admin)
        key = (await http.post("/admin/v1/tenants/pine/keys", json={}, headers=admin)).json()["key"]
        body, path = body_of("pinecone", model=None), path_of("pinecone")
        good = await http.post(path, json=body, headers={"api-key": key})
        assert good.status_code == 200, good.text
        for headers in ({}, {"api-key": "x"}, {"api-key": key, "authorization": "Bearer x"}):
            bad = await http.post(path, json=body, headers=headers)
            assert (bad.status_code, bad.json()["status"]) == (401, 401)


# --- the table -----------------------------------------------------------------------------------------


def test_every_path_of_a_dialect_is_served_and_some_alone() -> None:
    for dialect in DIALECTS.values():
        for path in dialect.paths:
            assert path in PATHS
            assert PATHS[dialect.folder + path] == (dialect,)
    assert all(len(PATHS[path]) == 1 for path in PATHS if path not in SHARED_PATHS)


def test_a_parsed_body_keeps_no_documents_that_do_not_come_back() -> None:
    for name in NAMES:
        data = json.dumps(body_of(name, documents=["a needle in it", "b"]) | {"return_documents": False})
        read = parse_rerank([name], False, 100, 1000, data.encode())
        assert list(read.task.passages) == ["a needle in it", "b"]
        assert ("needle" in str(read.body)) == (name == "vertex")


def test_the_readme_lists_every_dialect() -> None:
    page = (ROOT / "serving" / "README.md").read_text(encoding="utf-8")
    rows = [
        f"| [{one.title}]({one.docs}) | {', '.join(f'`{path}`' for path in one.paths)} | `{one.name}` "
        f"| {f'`{one.sdk}`' if one.sdk else ''} |"
        for one in DIALECTS.values()
    ]
    assert re.findall(r"^\| \[.*\]\(https.* \|$", page, re.MULTILINE) == rows
