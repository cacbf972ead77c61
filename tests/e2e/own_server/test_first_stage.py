"""Both kinds of a first stage on the real engine, on servers of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from configs.demo.maker import pointwise
from configs.demo.maker.lists import ListShape, RankingList, ranking_lists
from configs.demo.maker.metrics import ndcg_at_10, pair_counts
from configs.demo.maker.relevance import BASE as NOTION
from dear_client import Client
from dear_serving.adapters.scalar_head import convert_head
from dear_serving.adapters.template_files import load_template
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask
from tests.conftest import CPU_CONFIG, ROOT
from tests.e2e.conftest import Server, core_of, processes
from tests.support.adapters import write_classifier
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

DEMO = ROOT / "configs" / "demo"
BASE = DEMO / "base"
QUERY = "which letter is first?"
PASSAGES = ["alpha is", "beta", "the gamma of the delta", "omega, at last", "first of all a letter"]


def lists(count: int, passages: int) -> list[RankingList]:
    shape = ListShape(passages, passages, max_passage_words=60, mean_passage_words=30)
    return list(islice(ranking_lists(7, shape, held_out=True, notion=NOTION), count))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's adapters, a classifier of the tiny base, and that one converted."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("legal", "pointwise"):
        shutil.copytree(DEMO / "adapters" / name, folder / name)
    write_classifier(folder / "classifier", BASE)
    convert_head(folder / "classifier", folder / "head", "dear-pointwise", str(BASE))
    return folder


@pytest.fixture(scope="module")
def staged(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose first stage is the adapter pointwise; the converted head is a model of its own name."""
    folder = tmp_path_factory.mktemp("staged")
    data = yaml.safe_load(CPU_CONFIG.with_name("cascade.yaml").read_text())
    data["model"]["source"] = str(BASE)
    del data["first_stage"]["max_passage_tokens"]
    data["adapters"] = {
        "root": str(converted),
        "serve": [
            {"name": "legal", "path": "legal"},
            {"name": "pointwise", "path": "pointwise", "template": "yes-no", "shared": False},
            {"name": "head", "path": "head", "template": "dear-pointwise"},
        ],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with Server(folder / "config.yaml", folder / "output.log") as server:
        yield server


def scores_of(url: str, **body: Any) -> dict[int, float]:
    """The first stage's score of each document."""
    with httpx.Client(base_url=url, timeout=120) as http:
        reply = http.post("/v2/rerank", json=body)
    assert reply.status_code == 200, reply.text
    return {one["index"]: one["dear"]["first_stage_score"] for one in reply.json()["results"]}


def test_a_cascade_ranks_as_well_as_listwise_over_all_with_fewer_tokens(staged: Server) -> None:
    ndcg: dict[str, list[float]] = {"joint": [], "pointwise": [], "cascade": []}
    tokens = dict.fromkeys(ndcg, 0)
    with Client(staged.url) as client:
        for one in lists(4, 60):
            for name in ndcg:
                ranking = client.rerank(one.query, one.passages, strategy=name)
                assert sorted(ranking.order) == list(range(60))
                ndcg[name].append(ndcg_at_10(list(ranking.order), one.relevance))
                tokens[name] += ranking.usage.total_tokens
                details = ranking.details
                assert details is not None
                assert details.scored == (None if name == "joint" else 60)
                assert details.windows == {"joint": 9, "pointwise": 0, "cascade": 1}[name]
    assert min(ndcg["pointwise"]) > 0.9
    assert sum(ndcg["cascade"]) > sum(ndcg["joint"]) - 0.08
    assert tokens["cascade"] < 0.7 * tokens["joint"]


def test_the_scores_are_those_of_the_same_weights_in_transformers(staged: Server) -> None:
    import torch

    from configs.demo.maker.evaluate import load

    decoder, (one,) = load(DEMO, pointwise.NAME), lists(1, 40)
    odds = pointwise.log_odds(decoder.model, decoder.tokenizer, one.query, one.passages)
    wanted = torch.sigmoid(torch.tensor(odds)).tolist()
    found = scores_of(staged.url, query=one.query, documents=one.passages, dear={"strategy": "pointwise"})
    # The numbers are of bfloat16, and a batch adds them up in another order.
    apart = [abs(found[place] - wanted[place]) for place in found]
    assert sum(apart) / len(apart) < 0.05, (found, wanted)
    orders = (sorted(found, key=lambda place: -scores[place]) for scores in (found, wanted))
    (right, pairs), (wanted_right, _) = (pair_counts(order, one.relevance) for order in orders)
    assert abs(right - wanted_right) < 0.02 * pairs


def test_a_converted_head_gives_its_score_beside_listwise_adapters(
    staged: Server, converted: Path, tokenizer: BaseTokenizer
) -> None:
    wanted = head_scores(converted / "classifier", tokenizer)
    found = scores_of(staged.url, model="head", query=QUERY, documents=PASSAGES)
    assert [found[place] for place in range(len(PASSAGES))] == pytest.approx(wanted, abs=0.02)
    with Client(staged.url) as client:  # a window of an adapter that leaves the output layer alone
        assert len(client.rerank(QUERY, PASSAGES, model="legal").order) == len(PASSAGES)


def test_a_stream_of_a_cascade_ends_with_both_scores(staged: Server) -> None:
    body = {"query": QUERY, "documents": PASSAGES, "dear": {"strategy": "cascade", "stream": True}}
    with httpx.Client(base_url=staged.url, timeout=120) as http:
        text = http.post("/v2/rerank", json=body).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert [one["index"] for one in events[:-1]] == [one["index"] for one in events[-1]["results"]]
    assert all(0 < one["dear"]["first_stage_score"] < 1 for one in events[-1]["results"])


def head_scores(adapter: Path, tokenizer: BaseTokenizer) -> list[float]:
    """What the classifier gives each passage, by transformers, as a probability."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        BASE, num_labels=1, dtype=torch.float32, pad_token_id=2
    )
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    return [
        float(torch.sigmoid(model(torch.tensor([prompt])).logits.detach()))
        for prompt in dear_prompts(tokenizer)
    ]


def dear_prompts(tokenizer: BaseTokenizer) -> list[list[int]]:
    builder = PromptBuilder(load_template("dear-pointwise", None), tokenizer, 4096)
    prompts = builder.prepare(RankTask(QUERY, PASSAGES))
    return [prompts.window((place,)) for place in range(len(PASSAGES))]


def test_a_classifier_of_its_own_scores_in_engines_of_its_own(
    converted: Path, tokenizer: BaseTokenizer, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        BASE, num_labels=1, dtype=torch.float32, pad_token_id=2
    )
    merged = PeftModel.from_pretrained(model, str(converted / "classifier")).merge_and_unload()
    merged.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(BASE).save_pretrained(tmp_path / "classifier")
    data = yaml.safe_load(CPU_CONFIG.read_text())
    data["model"]["source"] = str(BASE)
    data["adapters"]["root"] = str(DEMO / "adapters")
    kwargs = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True}
    engine = {"accelerator": "cpu", "engine_kwargs": kwargs}
    data["first_stage"] = {
        "model": "classifier",
        "source": str(tmp_path / "classifier"),
        "template": "dear-pointwise",
        "engine": engine,
        "depth": 3,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    with Server(tmp_path / "config.yaml", tmp_path / "output.log") as server:
        wanted = head_scores(converted / "classifier", tokenizer)
        body: dict[str, Any] = {"model": "legal", "query": QUERY, "documents": PASSAGES}
        found = scores_of(server.url, **body, dear={"strategy": "pointwise"})
        assert [found[place] for place in range(len(PASSAGES))] == pytest.approx(wanted, abs=1e-4)
        with httpx.Client(base_url=server.url, timeout=120) as http:
            cascade = http.post("/v2/rerank", json=body | {"dear": {"strategy": "cascade"}}).json()
            page = http.get("/metrics").text
        tail = sorted(found, key=lambda place: -found[place])[3:]
        assert [one["index"] for one in cascade["results"]][3:] == tail
        assert cascade["meta"]["dear"]["first_stage"] == "classifier"
        assert 'replica="' in page
        check_survives_its_engine(server, body, cascade["results"])
        server.check_stop()


def check_survives_its_engine(server: Server, body: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """While the first stage's only engine is dead, cascades fail at once, and others are ranked."""
    killed = core_of(*processes(server, "ServeReplica:dear:FirstStage"))
    killed.kill()
    seen = set()
    with httpx.Client(base_url=server.url, timeout=20) as http:

        def is_back() -> bool:
            reply = http.post("/v2/rerank", json=body | {"dear": {"strategy": "cascade"}})
            seen.add(reply.status_code)
            if reply.status_code != 200:
                error = reply.json()["error"]
                assert error["code"] == "engine_unavailable"
                assert error["message"].startswith("first stage: ")
                assert int(reply.headers["Retry-After"]) >= 1
                assert http.post("/v2/rerank", json=body).status_code == 200
            return reply.status_code == 200 and 503 in seen

        assert eventually(is_back, 180)
        again = http.post("/v2/rerank", json=body | {"dear": {"strategy": "cascade"}}).json()
    assert seen == {200, 503}
    assert [one["index"] for one in again["results"]] == [one["index"] for one in results]
