"""A model quantised by rounding alone: int8 weights with a scale a channel, in compressed-tensors' format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "strategy": "token",
                "symmetric": True,
                "dynamic": True,
            },
        }
    },
}
"""The ``quantization_config`` of int8 weights, and of activations that are scaled a token as they come."""


def quantise(source: Path, folder: Path) -> Path:
    """A copy of the model at ``source`` in W8A8; only the projections of its layers are quantised."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": W8A8}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        tensors[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
            tensors[name] = (weight.float() / scale).round().to(torch.int8)
            tensors[f"{name}_scale"] = scale.to(torch.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
