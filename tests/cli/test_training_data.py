"""Training examples: the server's own prompt, and the right answer to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.template_files import load_template
from dear_serving.cli.main import app
from dear_serving.cli.training_data import examples
from dear_serving.errors import InvalidRequest, SettingsError
from dear_serving.ranking.permutation import parse_permutation
from dear_serving.settings import load_settings
from tests.conftest import ROOT

RANKED = {"query": "parking permit", "passages": ["best", "second", "third", "worst"]}
TRAINING = ROOT / "configs" / "training"


def example(template: str, seed: int = 0, **changes: Any) -> list[dict[str, str]]:
    (found,) = examples([json.dumps(RANKED | changes)], load_template(template, None), seed)
    messages: list[dict[str, str]] = found["messages"]
    return messages


def test_the_answer_ranks_the_passages_as_they_were_given() -> None:
    orders = set()
    for seed in range(20):
        *turns, answer = example("chat", seed)
        shown = [turn["content"] for turn in turns if turn["content"].startswith("[")]
        order = parse_permutation(answer["content"], 4, first_identifier=1)
        assert not any(vars_of(order.repairs))
        assert [shown[place].split("] ")[1] for place in order.order] == RANKED["passages"]
        orders.add(order.order)
    assert len(orders) > 5  # shown in many orders


def vars_of(repairs: Any) -> list[int]:
    return [getattr(repairs, kind) for kind in ("repeated", "missing", "out_of_range", "unparseable")]


def test_turns_are_those_the_server_renders() -> None:
    template = load_template("chat", None)
    *turns, answer = example("chat")
    shown = [turn["content"].partition("] ")[2] for turn in turns if turn["content"].startswith("[")]
    rendered: list[dict[str, str]] = []

    def keep(given: list[dict[str, str]]) -> str:
        rendered.extend(given)
        return ""

    template.render("parking permit", shown, keep)
    assert turns == rendered
    assert answer["role"] == "assistant"
    roles = [turn["role"] for turn in [*turns, answer]]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]


def test_a_text_template_is_one_turn() -> None:
    user, answer = example("plain")
    assert user["role"] == "user"
    assert "parking permit" in user["content"]
    assert answer["content"].startswith("[")
    assert answer["content"].endswith("]")


def test_passages_cannot_bring_identifiers_of_their_own() -> None:
    turns = example("chat", passages=["best [4] > [1]", "worst"])
    shown = next(turn["content"] for turn in turns if "best" in turn["content"])
    assert "[4]" not in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 3: Invalid JSON"),
        (json.dumps({"query": "q", "passages": ["one"]}), "line 3: passages: "),
        (json.dumps({"query": "", "passages": ["a", "b"]}), "line 3: query: "),
        (json.dumps({"query": "q", "passages": ["a", 2]}), "line 3: passages.1: "),
    ],
)
def test_a_wrong_line_is_named(line: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        list(examples([json.dumps(RANKED), "", line], load_template("chat", None)))


def test_the_command_writes_a_line_an_example(tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text("\n".join([json.dumps(RANKED)] * 3) + "\n")
    done = CliRunner().invoke(app, ["training-data", str(file), "--template", "chat"])
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["messages"][-1]["role"] for line in lines] == ["assistant"] * 3
    file.write_text("[]")
    done = CliRunner().invoke(app, ["training-data", str(file)])
    assert isinstance(done.exception, SettingsError)
    assert "line 1" in done.exception.message


def test_what_the_training_settings_make_is_what_the_server_takes() -> None:
    """Rank and modules pass the checks that an adapter has to pass; the data is found where they say."""
    training = yaml.safe_load((TRAINING / "listwise_lora.yaml").read_text())
    served = load_settings(ROOT / "configs" / "a100.yaml")
    config = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
    }
    assert training["lora_rank"] <= served.engine.max_lora_rank
    assert set(training["lora_target"].split(",")) <= set(BaseShape.from_config(config).projections)
    assert training["model_name_or_path"] == served.model.source
    dataset = json.loads((TRAINING / "dataset_info.json").read_text())[training["dataset"]]
    (found,) = examples([json.dumps(RANKED)], load_template("chat", None))
    assert list(found) == [dataset["columns"]["messages"]]


def test_a_template_of_a_first_stage_has_no_rankings() -> None:
    with pytest.raises(SettingsError, match='template "yes-no" shows one passage'):
        example("yes-no")
