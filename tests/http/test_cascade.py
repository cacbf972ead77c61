"""Strategies with a first stage over HTTP: replies, dialects, streams, budgets and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dear_serving.adapters.configured import register_configured
from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.settings import FirstStageSettings, Settings, load_settings
from tests.conftest import CPU_CONFIG, LEGAL, client_of, gateway_over, settings_in
from tests.support.fake_engine import FakeEngine

DOCUMENTS = [f"worth {(7 * number) % 30} coins" for number in range(30)]
WORTHS = [(7 * number) % 30 for number in range(30)]
BY_WORTH = sorted(range(30), key=lambda place: -WORTHS[place])
BODY: dict[str, Any] = {"model": "legal", "query": "which is worth most?", "documents": DOCUMENTS}


@pytest.fixture
async def staged(
    settings: Settings, tokenizer: BaseTokenizer, engine: FakeEngine, seeded: Path, tmp_path: Path
) -> AsyncIterator[GatewayState]:
    """A gateway whose base model is the first stage; the engine reverses windows and scores by worth."""

    def rate(prompt: Any) -> float:
        worth = (re.findall(r"worth (\d+)\b", tokenizer.decode(prompt)) or ["0"])[0]
        return (int(worth) - 15) / 5

    engine.rate = rate
    (tmp_path / "registry.db").write_bytes((seeded / "registry.db").read_bytes())
    stage = FirstStageSettings(model="dear-tiny", template="yes-no", depth=5)
    own = settings_in(tmp_path, settings.model_copy(update={"first_stage": stage}), seeded / "store")
    async with gateway_over(own, engine, tokenizer) as state:
        yield state


@pytest.fixture
def two_stages(staged: GatewayState) -> httpx.AsyncClient:
    return client_of(staged)


def asking(**dear: Any) -> dict[str, Any]:
    return BODY | {"dear": {"strategy": "cascade"} | dear}


async def test_a_cascade_has_both_scores_and_says_how_it_was_made(two_stages: httpx.AsyncClient) -> None:
    data = (await two_stages.post("/v2/rerank", json=asking())).json()
    results, meta = data["results"], data["meta"]["dear"]
    assert [one["index"] for one in results] == BY_WORTH[:5][::-1] + BY_WORTH[5:]
    for one in results:
        odds = (WORTHS[one["index"]] - 15) / 5
        assert one["dear"] == {"first_stage_score": pytest.approx(1 / (1 + 2.718281828**-odds), abs=1e-5)}
    scores = [one["relevance_score"] for one in results]
    assert all(before > after for before, after in itertools.pairwise(scores))
    assert (meta["strategy"], meta["strategy_reason"]) == ("cascade", "asked for")
    assert meta["ranks"] == {"listwise": 5, "one_pass": 0, "pointwise": 25, "unread": 0}
    assert (meta["windows"], meta["rounds"], meta["scored"]) == (1, 2, 30)
    assert (meta["revision"], meta["first_stage"]) == (LEGAL, "dear-tiny")


async def test_the_tokens_of_both_stages_are_billed_and_counted(
    two_stages: httpx.AsyncClient, engine: FakeEngine
) -> None:
    usage = (await two_stages.post("/v2/rerank", json=asking())).json()["usage"]
    prompts = [prompt for request in engine.scored for prompt in request.prompts]
    assert usage["prompt_tokens"] == sum(map(len, prompts)) + len(engine.requests[0].token_ids)
    page = (await two_stages.get("/metrics")).text
    (counted,) = re.findall(rf'^dear_tokens_total{{.*kind="prompt",revision="{LEGAL}".*}} (\S+)$', page, re.M)
    assert float(counted) == usage["prompt_tokens"]


async def test_depth_top_n_and_passes(two_stages: httpx.AsyncClient, engine: FakeEngine) -> None:
    data = (await two_stages.post("/v2/rerank", json=asking(cascade_depth=10) | {"top_n": 3})).json()
    assert [one["index"] for one in data["results"]] == BY_WORTH[:10][::-1][:3]
    assert data["meta"]["dear"]["ranks"]["listwise"] == 10
    data = (await two_stages.post("/v2/rerank", json=asking(passes=3))).json()
    assert (data["meta"]["dear"]["windows"], data["meta"]["dear"]["rounds"]) == (3, 2)
    whole = (await two_stages.post("/v2/rerank", json=asking(cascade_depth=30))).json()
    assert whole["meta"]["dear"]["ranks"] == {"listwise": 30, "one_pass": 0, "pointwise": 0, "unread": 0}
    assert len(engine.requests) == 1 + 3 + 6


async def test_a_cascade_is_explained_and_says_how_sure_its_ranks_are(
    two_stages: httpx.AsyncClient, engine: FakeEngine
) -> None:
    data = (await two_stages.post("/v2/rerank", json=asking(explain=True, confidence=True))).json()
    first, window = data["meta"]["dear"]["explanation"]["windows"]
    assert (first["round"], sorted(first["documents"])) == (0, list(range(30)))
    assert (window["round"], window["documents"]) == (1, BY_WORTH[:5])
    assert first["end_ms"] <= window["start_ms"]
    # Of the last ranks only the first stage has read both: their worths are 1 apart, their odds 1 / 5.
    tail = [one["confidence"] for one in data["results"][5:-1]]
    assert tail == [pytest.approx(1 / (1 + 2.718281828**-0.2), abs=1e-4)] * 24
    assert not any(one["certified"] for one in data["results"][5:])


async def test_pointwise_is_the_first_stage_alone(two_stages: httpx.AsyncClient, engine: FakeEngine) -> None:
    data = (await two_stages.post("/v2/rerank", json=asking(strategy="pointwise"))).json()
    assert [one["index"] for one in data["results"]] == BY_WORTH
    meta = data["meta"]["dear"]
    assert meta["ranks"] == {"listwise": 0, "one_pass": 0, "pointwise": 30, "unread": 0}
    assert (meta["windows"], meta["rounds"], meta["score_type"]) == (0, 1, "pointwise")
    assert meta["revision"] == meta["first_stage"] == data["model"] == "dear-tiny"
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/rerank", {"texts": DOCUMENTS}),
        ("/v1/rerank", {"documents": DOCUMENTS, "top_k": 30, "truncation": True}),
        ("/score", {"queries": BODY["query"], "documents": DOCUMENTS}),
        ("/v1/ranking", {"query": {"text": BODY["query"]}, "passages": [{"text": one} for one in DOCUMENTS]}),
    ],
)
async def test_other_dialects_have_the_order_and_their_own_reply(
    two_stages: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    body = {"query": BODY["query"], "model": "legal"} | body | {"dear": {"strategy": "cascade"}}
    reply = await two_stages.post(path, json=body)
    assert reply.status_code == 200, reply.text
    assert "first_stage_score" not in reply.text


async def test_a_stream_gives_the_head_first_and_the_whole_reply_last(two_stages: httpx.AsyncClient) -> None:
    reply = await two_stages.post("/v2/rerank", json=asking(stream=True))
    events = [
        json.loads(line.removeprefix("data: "))
        for line in reply.text.splitlines()
        if line.startswith("data: {")
    ]
    *ranks, whole = events
    assert [one["index"] for one in ranks] == [one["index"] for one in whole["results"]]
    assert whole["results"][0]["dear"]["first_stage_score"] > 0.8


async def test_parts_of_long_documents_are_scored_and_the_best_one_counts(
    two_stages: httpx.AsyncClient,
) -> None:
    documents = ["worth 3 " + "word " * 400 + " worth 3 " + "word " * 100, "worth 9", "worth 1"]
    body = asking(long_documents="max_passage", cascade_depth=2) | {"documents": documents}
    data = (await two_stages.post("/v2/rerank", json=body)).json()
    assert sorted(one["index"] for one in data["results"]) == [0, 1, 2]
    meta = data["meta"]["dear"]
    assert meta["scored"] == meta["parts"] > 3
    assert sum(meta["ranks"].values()) == 3
    assert all("dear" in one for one in data["results"])


@pytest.mark.parametrize(
    ("dear", "param"),
    [
        ({"cascade_depth": 31}, "dear.cascade_depth"),
        ({"cascade_depth": 0}, "dear.cascade_depth"),
        ({"cascade_depth": True}, "dear.cascade_depth"),
        ({"strategy": "sliding", "cascade_depth": 3}, "dear.cascade_depth"),
        ({"strategy": "pointwise", "passes": 2}, "dear.passes"),
        ({"max_prompt_tokens": 50}, "dear.max_prompt_tokens"),
    ],
)
async def test_what_does_not_fit_is_a_400_that_names_it(
    two_stages: httpx.AsyncClient, engine: FakeEngine, dear: dict[str, Any], param: str
) -> None:
    reply = await two_stages.post("/v2/rerank", json=asking(**dear))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert engine.scored == []


@pytest.mark.parametrize("strategy", ["cascade", "pointwise"])
async def test_without_a_first_stage_it_is_a_400(http: httpx.AsyncClient, strategy: str) -> None:
    reply = await http.post("/v2/rerank", json=asking(strategy=strategy))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "dear.strategy")
    assert "has none (first_stage in its settings)" in reply.json()["error"]["message"]


@pytest.fixture
async def with_adapter(
    engine: FakeEngine, tokenizer: BaseTokenizer, tmp_path: Path
) -> AsyncIterator[GatewayState]:
    """A gateway of configs/cascade.yaml, whose first stage is an adapter that no tenant has a grant for."""
    own = settings_in(tmp_path, load_settings(CPU_CONFIG.with_name("cascade.yaml")))
    register_configured(own)
    async with gateway_over(own, engine, tokenizer) as state:
        yield state


async def test_a_first_stage_needs_no_grant(with_adapter: GatewayState, engine: FakeEngine) -> None:
    http = client_of(with_adapter)
    data = (await http.post("/v2/rerank", json=asking())).json()
    assert data["meta"]["dear"]["first_stage"].startswith("pointwise@")
    assert {request.adapter for request in engine.scored} == {data["meta"]["dear"]["first_stage"]}
    assert (await http.post("/v2/rerank", json=BODY | {"model": "pointwise"})).status_code == 404


async def test_a_model_that_reads_one_passage_ranks_pointwise_without_being_asked(
    with_adapter: GatewayState,
) -> None:
    with_adapter.lifecycle.adapters.share("pointwise", True, actor="test")
    await with_adapter.catalog.refresh()
    http = client_of(with_adapter)
    body = BODY | {"model": "pointwise"}
    data = (await http.post("/v2/rerank", json=body)).json()
    assert (data["model"], data["meta"]["dear"]["strategy"]) == ("pointwise", "pointwise")
    refused = await http.post("/v2/rerank", json=body | {"dear": {"strategy": "cascade"}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dear.strategy")


async def test_a_first_stage_that_is_not_served_now_is_a_503(
    staged: GatewayState, two_stages: httpx.AsyncClient
) -> None:
    object.__setattr__(staged.rerank.first_stage, "name", "gone")
    reply = await two_stages.post("/v2/rerank", json=asking())
    assert reply.status_code == 503
    assert "first stage gone is not served now" in reply.json()["error"]["message"]
