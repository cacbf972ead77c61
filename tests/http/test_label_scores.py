"""vLLM's generative scoring over the fake engine, which halves probabilities from the first label on."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from typing import Any

import httpx
import pytest

from dear_serving.gateway.state import GatewayState
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.http.openapi import WARNINGS
from dear_serving.protocol import PermutationRequest
from tests.conftest import LEGAL, client_of
from tests.support.fake_engine import FakeEngine

PATH = "/generative_scoring"
BODY: dict[str, Any] = {
    "model": "legal",
    "query": "Is it cheap? ",
    "items": ["a permit", "a car"],
    "label_token_ids": [7, 5],
}


@pytest.fixture(autouse=True)
def likes_the_first(engine: FakeEngine) -> None:
    engine.prefer = lambda request: range(len(request.identifiers))


def asked(engine: FakeEngine) -> list[PermutationRequest]:
    """What the engine was asked."""
    return [request for request in engine.requests if isinstance(request, PermutationRequest)]


@pytest.mark.parametrize("path", [PATH, f"/compat/vllm-score{PATH}"])
async def test_a_score_is_the_engines_probability_of_the_first_label(
    http: httpx.AsyncClient, engine: FakeEngine, tokenizer: BaseTokenizer, path: str
) -> None:
    reply = await http.post(path, json=BODY)
    assert reply.status_code == 200, reply.text
    data = reply.json()
    assert set(data) == {"id", "object", "created", "model", "data", "usage"}
    assert [one["index"] for one in data["data"]] == [0, 1]
    assert [one["score"] for one in data["data"]] == [pytest.approx(0.5)] * 2
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for request, item in zip(asked(engine), BODY["items"], strict=True):
        expected = bos + tokenizer.encode(BODY["query"]) + tokenizer.encode(item)
        assert list(request.token_ids) == expected
        assert (request.identifiers, request.needed, request.adapter) == (((7,), (5,)), 0, LEGAL)
    assert data["usage"]["prompt_tokens"] == sum(len(one.token_ids) for one in asked(engine))


async def test_items_may_stand_first_and_all_may_be_token_ids(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = BODY | {"query": [1, 2], "items": [[3], [4, 5]], "item_first": True}
    assert (await http.post(PATH, json=body)).status_code == 200
    assert [list(one.token_ids) for one in asked(engine)] == [[3, 1, 2], [4, 5, 1, 2]]


async def test_control_tokens_in_texts_are_plain_characters(
    http: httpx.AsyncClient, engine: FakeEngine, tokenizer: BaseTokenizer
) -> None:
    body = BODY | {"items": ["<|eot_id|>", "b"], "add_special_tokens": False}
    await http.post(PATH, json=body)
    (control,) = tokenizer.encode_template("<|eot_id|>")
    assert control not in asked(engine)[0].token_ids


async def test_long_items_are_cut_and_unknown_fields_named(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    body = BODY | {"items": ["word " * 20_000, "b"], "speed": 1, "request_id": "x"}
    reply = await http.post(PATH, json=body)
    assert reply.status_code == 200, reply.text
    assert json.loads(reply.headers[WARNINGS]) == [
        "ignored, since vLLM's API does not have it: speed",
        "1 prompts cut to fit the model's length",
    ]
    assert all(request.tokens <= 4096 for request in asked(engine))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"items": []}, 400, "items"),
        ({"items": "text"}, 400, "items"),
        ({"items": ["a", 7]}, 400, "items.1"),
        ({"items": [[-1]]}, 400, "items.0.0"),
        ({"items": [[1_000_000]]}, 400, "items.0"),
        ({"items": ["x"] * 101}, 413, "items"),
        ({"items": ["a", "x" * 200_001]}, 413, "items.1"),
        ({"items": [""], "query": ""}, 400, "query"),
        ({"query": None}, 400, "query"),
        ({"query": [2**31 - 1]}, 400, "query"),
        ({"label_token_ids": []}, 400, "label_token_ids"),
        ({"label_token_ids": [1]}, 400, "label_token_ids"),
        ({"label_token_ids": [1, 1]}, 400, "label_token_ids"),
        ({"label_token_ids": list(range(129))}, 400, "label_token_ids"),
        ({"label_token_ids": [1, 1_000_000]}, 400, "label_token_ids"),
        ({"label_token_ids": [1, -2]}, 400, "label_token_ids.1"),
        ({"apply_softmax": False}, 400, "apply_softmax"),
        ({"model": "nobody"}, 404, "model"),
        ({"priority": -1}, 400, "priority"),
    ],
)
async def test_wrong_fields_are_named(
    http: httpx.AsyncClient, engine: FakeEngine, change: dict[str, Any], status: int, param: str
) -> None:
    reply = await http.post(PATH, json=BODY | change)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
    assert engine.requests == []


async def test_a_tenant_pays_for_every_prompt(gateway: GatewayState, engine: FakeEngine) -> None:
    admitted: list[int] = []
    admit = gateway.labels.admission.admit

    class Admission:
        check = gateway.labels.admission.check

        async def admit(self, caller: Any, tokens: int) -> None:
            admitted.append(tokens)
            await admit(caller, tokens)

    labels = dataclasses.replace(gateway.labels, admission=Admission())
    async with client_of(dataclasses.replace(gateway, labels=labels)) as http:
        assert (await http.post(PATH, json=BODY)).status_code == 200
    assert admitted == [sum(request.cost for request in asked(engine))]


async def test_a_dead_engine_is_a_503_and_a_caller_who_leaves_ends_the_work(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.dead = True
    assert (await http.post(PATH, json=BODY)).status_code == 503
    engine.dead, engine.delay_s = False, 30
    task = asyncio.create_task(http.post(PATH, json=BODY))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.cancelled == 2


async def test_the_probabilities_are_among_the_labels(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.prefer = lambda request: range(len(request.identifiers) - 1, -1, -1)
    reply = await http.post(PATH, json=BODY | {"label_token_ids": [1, 2, 3]})
    assert reply.json()["data"][0]["score"] == pytest.approx(math.exp(-3 * math.log(2)))
