"""Writes the base and the adapters as the server loads them: whole files, renamed into place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from configs.demo.maker.tokenizer import write_tokenizer

BASE_PATH = "configs/demo/base"  # what each adapter names as its base model
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_config() -> LlamaConfig:
    """A Llama of six layers; the very slow rotary base lets words match over thousands of tokens."""
    return LlamaConfig(
        vocab_size=3350,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def lora_config() -> LoraConfig:
    """The shape of the published listwise adapters: r=16, alpha=32, the seven target modules."""
    return LoraConfig(
        r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
        bias="none",
    )


def save_base(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config, bf16 weights, generation config and tokenizer of the base into `folder`."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(state)
    copy = copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=[1, 4], pad_token_id=1, do_sample=False
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.save_pretrained(partial)
    write_tokenizer(partial)
    _move_files(partial, folder)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes a PEFT adapter (bf16 safetensors) that names the base by its path in the repository."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    config = model.peft_config["default"]
    config.base_model_name_or_path = BASE_PATH
    config.inference_mode = True
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial), save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)
    settings = partial / "adapter_config.json"
    content = json.loads(settings.read_text())
    content["target_modules"] = TARGET_MODULES  # PEFT writes a set, in any order
    settings.write_text(json.dumps(content, indent=2) + "\n")
    _move_files(partial, folder)


def _move_files(source: Path, target: Path) -> None:
    """Renames each file into place, so that a reader sees the old file or the new one, never half."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        path.chmod(0o644)
        path.replace(target / path.name)
    source.rmdir()
