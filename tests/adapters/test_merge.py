"""An adapter merged into its base: the same logits without LoRA, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from configs.demo.maker.lists import ListShape, ranking_lists
from configs.demo.maker.relevance import BASE as BASE_NOTION
from dear_serving.adapters.merge import merge
from dear_serving.adapters.template_files import load_template
from dear_serving.errors import InvalidAdapterFiles, SettingsError, StartupError
from dear_serving.gateway.tokenizer import BaseTokenizer, load_tokenizer
from dear_serving.ranking.prompts import PromptBuilder
from dear_serving.types import RankTask
from tests.conftest import ROOT

pytestmark = pytest.mark.integration

BASE = ROOT / "configs" / "demo" / "base"
LEGAL = ROOT / "configs" / "demo" / "adapters" / "legal"
ROUNDING = 2**-7
"""Relative error of two roundings to bfloat16."""


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's base with the adapter legal merged into it."""
    folder = tmp_path_factory.mktemp("models") / "new" / "merged"
    merge(LEGAL, folder, str(BASE))
    return folder


def test_the_merged_model_has_the_logits_of_base_and_adapter(merged: Path, tokenizer: BaseTokenizer) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    alone = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(LEGAL))
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.dtype == torch.bfloat16
    builder = PromptBuilder(load_template("plain", None), tokenizer, 4096)
    for _, example in zip(range(8), ranking_lists(3, ListShape(6, 12), True, BASE_NOTION), strict=False):
        prompt = builder.prepare(RankTask(example.query, example.passages)).window(
            range(len(example.passages))
        )
        tokens = torch.tensor([[*prompt, *builder.answer.opening]])
        with torch.no_grad():
            wanted, other = adapted(tokens).logits, alone(tokens).logits
            found = model.float()(tokens).logits
        bound = ROUNDING * float(wanted.abs().max())
        assert float((found - wanted).abs().max()) < bound
        assert float((other - wanted).abs().max()) > 10 * bound


def test_the_merged_model_has_the_tokenizer_of_its_base(merged: Path, tokenizer: BaseTokenizer) -> None:
    text = "[3] > [1] The notice period for tenants <s> é 12"
    ours = load_tokenizer(str(merged))
    assert ours.encode(text) == tokenizer.encode(text)
    assert ours.encode_template(text) == tokenizer.encode_template(text)
    assert ours.bos_token_id == tokenizer.bos_token_id


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with copies of a base and an adapter, to be damaged."""
    shutil.copytree(BASE, tmp_path / "base")
    shutil.copytree(LEGAL, tmp_path / "legal")
    return tmp_path


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(folder: Path, error: type[StartupError] = SettingsError, base: str | None = None) -> str:
    """The message, after which nothing new is in the folder."""
    before = sorted(folder.iterdir())
    with pytest.raises(error) as failure:
        merge(folder / "legal", folder / "merged", base or str(folder / "base"))
    assert sorted(folder.iterdir()) == before
    assert "\n" not in failure.value.message
    return failure.value.message


def test_a_folder_that_exists_is_not_written_to(broken: Path) -> None:
    (broken / "merged").mkdir()
    assert refusal(broken) == f"{broken / 'merged'} exists already; name a folder that does not"
    assert not any((broken / "merged").iterdir())


def test_an_adapter_of_another_base_is_refused(broken: Path) -> None:
    change(broken / "base" / "config.json", hidden_size=128)
    assert "the base model needs" in refusal(broken, InvalidAdapterFiles)


def test_a_rank_that_is_none_is_refused(broken: Path) -> None:
    change(broken / "legal" / "adapter_config.json", r=0)
    assert 'adapter "legal": rank r is 0' in refusal(broken, InvalidAdapterFiles)
    change(broken / "legal" / "adapter_config.json", r=4096)
    assert "rank 4096 is over" in refusal(broken, InvalidAdapterFiles)


def test_without_an_adapter_there_or_a_base_there_it_says_which(broken: Path) -> None:
    assert refusal(broken, base=str(broken / "none")) == f"the base: no such folder {broken / 'none'}"
    assert "s3://bucket/base: to merge, a base in a folder" in refusal(broken, base="s3://bucket/base")
    shutil.rmtree(broken / "legal")
    assert "No such file" in refusal(broken, InvalidAdapterFiles)


def test_a_quantised_base_is_refused(broken: Path) -> None:
    change(broken / "base" / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    assert "is quantised; merge with the model that it was made from" in refusal(broken)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_base_without_all_its_files_leaves_nothing_behind(missing: str, broken: Path) -> None:
    (broken / "base" / missing).unlink()
    assert "cannot be merged: " in refusal(broken)
