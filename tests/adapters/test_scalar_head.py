"""A scalar head as the logit of a label: the same scores, in an adapter that is plain LoRA."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dear_serving.adapters.preflight import base_shape, check_adapter
from dear_serving.adapters.scalar_head import convert_head
from dear_serving.adapters.template_files import load_template
from dear_serving.cli.main import app
from dear_serving.errors import InvalidAdapterFiles, SettingsError, StartupError
from dear_serving.gateway.tokenizer import BaseTokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask
from tests.conftest import ROOT
from tests.support.adapters import write_classifier

pytestmark = pytest.mark.integration

BASE = ROOT / "configs" / "demo" / "base"
LEGAL = ROOT / "configs" / "demo" / "adapters" / "legal"
TASK = RankTask("which letter is first?", ["alpha is", "beta", "the gamma of the delta", "omega, at last"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with a scalar head on the tiny base, as PEFT saves it, with random weights."""
    return write_classifier(tmp_path_factory.mktemp("adapters") / "classifier", BASE)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT; it is not merged here
def test_the_log_odds_of_the_label_are_the_heads_score(
    classifier: Path, tokenizer: BaseTokenizer, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    convert_head(classifier, tmp_path / "out", "dear-pointwise", str(BASE))
    template = load_template("dear-pointwise", None)
    builder = PromptBuilder(template, tokenizer, 4096)
    headed = AutoModelForSequenceClassification.from_pretrained(
        BASE, num_labels=1, dtype=torch.float32, pad_token_id=2
    )
    headed = PeftModel.from_pretrained(headed, str(classifier)).eval()
    labelled = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    labelled = PeftModel.from_pretrained(labelled, str(tmp_path / "out")).eval()
    prompts, ((yes,), (no,)) = builder.prepare(TASK), builder.answer.identifiers
    scores = []
    for place in range(len(TASK.passages)):
        tokens = torch.tensor([prompts.window((place,))])
        with torch.inference_mode():
            wanted = float(headed(tokens).logits)
            logits = labelled(tokens).logits[0, -1]
        scores.append(wanted)
        assert float(logits[yes] - logits[no]) / template.label_scale == pytest.approx(wanted, abs=0.02)
    assert max(scores) - min(scores) > 0.2


def test_dears_prompt_is_the_pair_of_its_own_code(tokenizer: BaseTokenizer) -> None:
    builder = PromptBuilder(load_template("dear-pointwise", None), tokenizer, 4096)
    text = builder.tokenizer.decode(builder.prepare(TASK).window((0,)))
    query, passage = f"query: {TASK.query}", f"document: {''} {TASK.passages[0]}"
    assert text == f"<|begin_of_text|>{query}<|begin_of_text|>{passage}"


def test_the_result_passes_the_checks_of_an_adapter(classifier: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["convert-head", str(classifier), str(tmp_path / "out"), "--base", str(BASE)]
    )
    assert result.exit_code == 0, result.output
    assert "serve it with the template dear-pointwise" in result.output
    assert check_adapter("out", tmp_path / "out", base_shape(str(BASE)), 16) == 8
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_classifier_itself_is_refused_with_the_way_out(classifier: Path) -> None:
    with pytest.raises(InvalidAdapterFiles, match=r"is a sequence classifier.*see dear convert-head"):
        check_adapter("classifier", classifier, base_shape(str(BASE)), 16)


def head_of(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change the head in an adapter's file; None removes it."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    head = change(tensors.pop("base_model.model.score.weight"))
    save_file(tensors if head is None else tensors | {"base_model.model.score.weight": head}, file)


def config_of(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no sequence classifier": (
        lambda folder: config_of(folder, task_type="CAUSAL_LM"),
        "task_type is 'CAUSAL_LM', it is no sequence classifier",
    ),
    "two classes": (
        lambda folder: head_of(folder, lambda head: head.repeat(2, 1)),
        r"has shape \(2, 256\), one score for a hidden size of 256 needs \(1, 256\)",
    ),
    "of another width": (
        lambda folder: head_of(folder, lambda head: head[:, :128].contiguous()),
        r"has shape \(1, 128\)",
    ),
    "no head": (lambda folder: head_of(folder, lambda head: None), "it has no head, base_model.model.score"),
    "no numbers": (
        lambda folder: head_of(folder, lambda head: head / 0),
        "its head holds what is no finite number",
    ),
    "no rank": (lambda folder: config_of(folder, r=0), "r and lora_alpha are no positive numbers"),
    "no settings": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "no readable settings of a LoRA",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"),
        "adapter_model.safetensors cannot be read",
    ),
    "LoRA that does not fit": (
        lambda folder: config_of(folder, target_modules=["q_proj"]),
        "is of no target module",
    ),
}


@pytest.mark.parametrize(("breaks", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_converted_is_named_and_nothing_is_written(
    classifier: Path, tmp_path: Path, breaks: Callable[[Path], object], said: str
) -> None:
    folder = Path(shutil.copytree(classifier, tmp_path / "broken"))
    breaks(folder)
    with pytest.raises(InvalidAdapterFiles, match=said):
        convert_head(folder, tmp_path / "out", "dear-pointwise", str(BASE))
    assert [file.name for file in tmp_path.iterdir()] == ["broken"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"template": "plain"}, 'template "plain" has no labels'),
        ({"base": "/nowhere"}, "the base: no such folder /nowhere"),
        ({"output": LEGAL}, "exists already"),
    ],
)
def test_what_else_stands_in_the_way_is_named(
    classifier: Path, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    given = {"output": tmp_path / "out", "template": "dear-pointwise", "base": str(BASE)} | arguments
    with pytest.raises(StartupError, match=said) as refused:
        convert_head(classifier, given["output"], given["template"], given["base"])
    assert isinstance(refused.value, SettingsError)
