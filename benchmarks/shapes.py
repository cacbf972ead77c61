"""Models and adapters with the shape of real ones and random weights: no download, and no useful answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.server import ROOT
from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.preflight import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    import torch

DEMO_BASE = ROOT / "configs" / "demo" / "base"
DEMO_ADAPTER = ROOT / "configs" / "demo" / "adapters" / "legal"

_RANK = 16
_INIT = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama; ``tied`` embeddings are the output's weights too."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    max_length: int = 16_384

    def config(self) -> dict[str, Any]:
        """The model's config.json: the demo model's but for the sizes."""
        demo: dict[str, Any] = json.loads((DEMO_BASE / "config.json").read_text(encoding="utf-8"))
        return demo | {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.max_length,
        }


SHAPES = {
    "135m": Shape(576, 30, 9, 3, 1536, 49_152, tied=True),
    "8b": Shape(4096, 32, 32, 8, 14_336, 128_256, tied=False),
}


def write_model(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a model in bfloat16, a file a layer, with the demo's tokenizer padded to the vocabulary."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    _write_json(folder / "config.json", shape.config())
    _write_tokenizer(folder, shape)
    generator = torch.Generator().manual_seed(seed)
    files: dict[str, str] = {}
    for part in _parts(shape, generator):
        name = f"model-{len(set(files.values())):05d}.safetensors"
        save_file(part, folder / name, {"format": "pt"})
        files |= dict.fromkeys(part, name)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    return folder


def write_adapter(folder: Path, base: Path, seed: int = 1) -> Path:
    """Write an adapter of rank 16 on all seven projections of the model in ``base``."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    settings = json.loads((DEMO_ADAPTER / CONFIG_FILE).read_text(encoding="utf-8"))
    _write_json(folder / CONFIG_FILE, settings | {"r": _RANK, "base_model_name_or_path": str(base)})
    shape = BaseShape.from_config(json.loads((base / "config.json").read_text(encoding="utf-8")))
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module, (inputs, outputs) in shape.projections.items():
            block = "self_attn" if module[0] in "qkvo" else "mlp"
            name = f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{{}}.weight"
            tensors[name.format("A")] = _random(generator, inputs**-0.5, _RANK, inputs)
            tensors[name.format("B")] = _random(generator, _INIT, outputs, _RANK)
    save_file(tensors, folder / WEIGHTS_FILE, {"format": "pt"})
    return folder


def _parts(shape: Shape, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """The weights, a layer at a time. The output's are large: few choices are near ties."""
    import torch

    def ones() -> torch.Tensor:
        return torch.ones(shape.hidden, dtype=torch.bfloat16)

    projections = BaseShape.from_config(shape.config()).projections
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        part = {f"{prefix}.{name}.weight": ones() for name in ("input_layernorm", "post_attention_layernorm")}
        for module, (inputs, outputs) in projections.items():
            block = "self_attn" if module[0] in "qkvo" else "mlp"
            part[f"{prefix}.{block}.{module}.weight"] = _random(generator, _INIT, outputs, inputs)
        yield part
    output = _random(generator, 6 * shape.hidden**-0.5, shape.vocabulary, shape.hidden)
    if shape.tied:
        yield {"model.embed_tokens.weight": output, "model.norm.weight": ones()}
        return
    yield {"lm_head.weight": output, "model.norm.weight": ones()}
    yield {"model.embed_tokens.weight": _random(generator, _INIT, shape.vocabulary, shape.hidden)}


def _random(generator: torch.Generator, deviation: float, *size: int) -> torch.Tensor:
    import torch

    return torch.empty(size, dtype=torch.bfloat16).normal_(0, deviation, generator=generator)


def _write_tokenizer(folder: Path, shape: Shape) -> None:
    tokenizer = json.loads((DEMO_BASE / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words |= {f"<|unused_{token}|>": token for token in range(len(words), shape.vocabulary)}
    _write_json(folder / "tokenizer.json", tokenizer)
    settings = json.loads((DEMO_BASE / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": shape.max_length})
    shutil.copy(DEMO_BASE / "generation_config.json", folder)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
