"""Every GPU configuration builds its application, and vLLM takes its arguments.

Here vLLM sees a CPU: kernels, memory and what a GPU's platform refuses are not checked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ray.llm._internal.serve.engines.vllm.vllm_engine import _get_vllm_engine_config
from ray.serve._private.build_app import build_app

from dear_serving.app import build_application, llm_config
from dear_serving.settings import Settings, load_settings
from tests.conftest import ROOT
from tests.support.quantised import W8A8

pytestmark = pytest.mark.integration

CONFIGS = {
    file.stem: file for file in (ROOT / "configs").glob("*.yaml") if "accelerator: gpu" in file.read_text()
}
QUANTIZED: dict[str, dict[str, Any]] = {
    "a100-int8": W8A8,
    "l40s-awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
}
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}


def test_the_readme_names_every_one_of_them() -> None:
    assert CONFIGS.keys() == {"a100", "cluster", "h100", "a100-int8", "l40s-awq", "merged"}
    readme = (ROOT / "README.md").read_text()
    assert all(f"configs/{name}.yaml" in readme for name in CONFIGS)


@pytest.fixture(params=sorted(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def settings(name: str) -> Settings:
    return load_settings(CONFIGS[name])


def test_the_application_has_an_engine_on_a_card_of_its_kind(name: str, settings: Settings) -> None:
    built = build_app(build_application(settings), name="dear")
    engine = next(one for one in built.deployments if one.name == "Engine")
    bundles = engine._replica_config.placement_group_bundles
    card = name.partition("-")[0].upper() if name not in {"merged", "cluster"} else "A100"
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == 1
    assert any(card in resource for bundle in bundles for resource in bundle)
    scaling = engine._deployment_config.autoscaling_config
    count = engine.num_replicas if scaling is None else scaling.initial_replicas
    assert count == settings.engine.replicas
    assert llm_config(settings).engine_kwargs.get("enable_lora", False) is (name != "merged")


def test_vllm_takes_the_arguments_for_a_model_of_this_shape(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "configs" / "demo" / "base", tmp_path / "base")
    quantized = {"quantization_config": QUANTIZED[name]} if name in QUANTIZED else {}
    (tmp_path / "base" / "config.json").write_text(json.dumps(LLAMA_8B | quantized))
    model = settings.model.model_copy(update={"source": str(tmp_path / "base")})
    arguments, config = _get_vllm_engine_config(llm_config(settings.model_copy(update={"model": model})))
    given = settings.engine.engine_kwargs
    scheduler = config.scheduler_config
    assert config.model_config.max_model_len == given["max_model_len"]
    assert config.model_config.quantization == QUANTIZED.get(name, {}).get("quant_method")
    assert scheduler.max_num_seqs == given["max_num_seqs"]
    assert scheduler.max_num_batched_tokens == given["max_num_batched_tokens"]
    assert scheduler.enable_chunked_prefill
    sizes = given["compilation_config"]["cudagraph_capture_sizes"]
    assert arguments.compilation_config.cudagraph_capture_sizes == sizes
    assert (config.lora_config is not None) is (name != "merged")


def test_the_graphs_reach_a_full_batch_of_windows_with_seven_drafts(settings: Settings) -> None:
    given = settings.engine.engine_kwargs
    sizes = given["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 8 * given["max_num_seqs"] <= given["max_num_batched_tokens"]
