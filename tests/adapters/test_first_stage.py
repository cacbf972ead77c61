"""A first stage that can be none is refused before anything starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dear_serving.adapters.preflight import check_models
from dear_serving.errors import SettingsError
from dear_serving.gateway.build import build_gateway
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.settings import FirstStageSettings, Settings
from tests.conftest import ROOT, settings_in
from tests.support.fake_engine import FakeEngine

DEMO = ROOT / "configs" / "demo"


def with_stage(settings: Settings, **stage: Any) -> Settings:
    return settings.model_copy(update={"first_stage": FirstStageSettings(**stage)})


def own_template(folder: Path, settings: Settings, **fields: Any) -> Settings:
    """The settings with a template ``own`` of these fields."""
    form = {"opening": "{query}", "passage": "{text}", "closing": "?"}
    (folder / "own.yaml").write_text(yaml.safe_dump({"source": "a test", "text": form} | fields))
    ranking = settings.ranking.model_copy(update={"templates": folder})
    return settings.model_copy(update={"ranking": ranking})


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as refused:
        check_models(settings)
    return refused.value.message


def test_the_base_model_and_an_adapter_may_be_one(settings: Settings) -> None:
    check_models(with_stage(settings, model="dear-tiny", template="yes-no"))
    check_models(with_stage(settings, model="legal", template="yes-no"))


def test_a_listwise_model_is_none(settings: Settings) -> None:
    said = 'first_stage: the template "plain" of legal shows several passages; set first_stage.template'
    assert said in refusal(with_stage(settings, model="legal"))


def test_an_unknown_template(settings: Settings) -> None:
    assert 'no prompt template "sequence"' in refusal(
        with_stage(settings, model="dear-tiny", template="sequence")
    )


def test_a_template_for_a_head_needs_a_model_with_one(settings: Settings, tmp_path: Path) -> None:
    own = own_template(tmp_path, settings, labels=[])
    assert "has no labels, and is for a model with a head" in refusal(
        with_stage(own, model="dear-tiny", template="own")
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels": ["yes"]}, "`labels` needs two or more different texts, or none"),
        ({"labels": ["yes", "yes"]}, "`labels` needs two or more different texts, or none"),
        ({"labels": ["yes", ""]}, "`labels` needs two or more different texts, or none"),
        ({"labels": ["yes", "no"], "answer": {"opening": "("}}, "`answer` and `reasoning` do not go with"),
        (
            {
                "labels": ["yes", "no"],
                "text": {"opening": "{query}", "passage": "[{i}] {text}", "closing": ""},
            },
            "needs {text} once and no {i}",
        ),
        ({}, "`first_identifier` is needed"),
    ],
)
def test_a_wrong_pointwise_template_is_named(
    settings: Settings, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    own = own_template(tmp_path, settings, **fields)
    assert said in refusal(with_stage(own, model="dear-tiny", template="own"))


def test_labels_that_begin_alike_are_refused_at_the_start(
    settings: Settings, tokenizer: BaseTokenizer, seeded: Path, tmp_path: Path
) -> None:
    own = own_template(tmp_path, settings, labels=[" yes", " yes indeed"])
    (tmp_path / "registry.db").write_bytes((seeded / "registry.db").read_bytes())
    staged = settings_in(tmp_path, with_stage(own, model="dear-tiny", template="own"), seeded / "store")
    with pytest.raises(SettingsError, match="does not tell the labels apart by their first tokens"):
        build_gateway(staged, FakeEngine(lambda request: ""), tokenizer, str(DEMO / "base"))


def with_tokenizer(settings: Settings, folder: Path, change: Any) -> Settings:
    """The settings with an adapter ``point`` that comes with the base's tokenizer, changed."""
    shutil.copytree(DEMO / "adapters" / "legal", folder / "point")
    tokenizer = json.loads((DEMO / "base" / "tokenizer.json").read_text())
    change(tokenizer)
    (folder / "point" / "tokenizer.json").write_text(json.dumps(tokenizer))
    serve = ({"name": "point", "path": "point", "template": "yes-no"},)
    adapters = type(settings.adapters)(root=folder, serve=serve)
    return with_stage(settings.model_copy(update={"adapters": adapters}), model="point")


def test_an_adapter_may_come_with_the_bases_tokenizer(settings: Settings, tmp_path: Path) -> None:
    check_models(with_tokenizer(settings, tmp_path, lambda tokenizer: None))


def test_an_adapter_with_another_tokenizer_is_refused(settings: Settings, tmp_path: Path) -> None:
    def swap(tokenizer: Any) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    said = refusal(with_tokenizer(settings, tmp_path, swap))
    assert "first_stage.model: point comes with another tokenizer than the base model" in said


def test_a_tokenizer_that_cannot_be_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    own = with_tokenizer(settings, tmp_path, lambda tokenizer: tokenizer.pop("model"))
    assert "tokenizer.json cannot be read" in refusal(own)


def with_source(settings: Settings, source: Path, **stage: Any) -> Settings:
    engine = {"engine_kwargs": {"max_model_len": 512}} | stage.pop("engine", {})
    given = {"model": "scorer", "source": str(source), "template": "dear-pointwise"} | stage
    return with_stage(settings, engine=engine, **given)


def write_config(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


ONE = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def test_a_classifier_with_one_score_may_be_one_of_its_own(settings: Settings, tmp_path: Path) -> None:
    check_models(with_source(settings, write_config(tmp_path, **ONE)))
    check_models(with_source(settings, tmp_path, template="bge-reranker"))


def test_a_model_that_answers_with_a_word_may_be_one_with_vllms_override(
    settings: Settings, tmp_path: Path
) -> None:
    write_config(tmp_path, architectures=["Qwen3ForCausalLM"])
    overrides = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}
    engine = {"engine_kwargs": {"max_model_len": 512, "hf_overrides": overrides}}
    check_models(with_source(settings, tmp_path, template="qwen3-reranker", engine=engine))
    assert "first_stage.source:" in refusal(with_source(settings, tmp_path))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "is LlamaForCausalLM, no sequence classifier"),
        ({}, "is nothing, no sequence classifier"),
        (ONE | {"id2label": {"0": "no", "1": "yes"}}, "gives 2 numbers, a first stage needs one"),
        ({"architectures": ["BertForSequenceClassification"]}, "gives 2 numbers, a first stage needs one"),
    ],
)
def test_a_model_of_its_own_with_another_head_is_refused(
    settings: Settings, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    message = refusal(with_source(settings, write_config(tmp_path, **config)))
    assert message.startswith("first_stage.source: ")
    assert said in message


def test_a_source_that_is_not_there_or_has_a_listwise_template(settings: Settings, tmp_path: Path) -> None:
    assert "first_stage.source: no such folder" in refusal(with_source(settings, tmp_path / "nowhere"))
    listwise = with_source(settings, write_config(tmp_path, **ONE), template="chat")
    assert 'the template "chat" of scorer shows several passages' in refusal(listwise)
