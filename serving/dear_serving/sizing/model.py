"""A model as its config.json describes it: parameters, bytes and FLOP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.errors import SettingsError
from dear_serving.sizing.figures import Numbers

DEFAULT_MODEL = "llama-3.1-8b"
"""Its config is part of this package, its tokenizer is not."""

_HALF = 2
"""Bytes of a number in bfloat16: embeddings, the output's weights, adapters and the KV cache always are."""

_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the layers' weights are kept: bytes each, scales included, and what they are multiplied in."""

    name: str
    bytes_a_weight: float
    numbers: Numbers
    text: str


QUANTISATIONS = {
    one.name: one
    for one in (
        Quantisation("bf16", 2.0, "bf16", "bf16"),
        Quantisation("int8", 1.0, "int8", "int8 W8A8"),
        Quantisation("fp8", 1.0, "fp8", "fp8"),
        # Four bits, and for each 128 weights a scale of 16 bits and a zero of 4.
        Quantisation("awq", (4 + 20 / 128) / 8, "bf16", "4-bit AWQ"),
    )
}
"""By name. On a card without products in int8 or fp8 such weights are unpacked to bf16."""


@dataclass(frozen=True, slots=True)
class Model:
    """A Llama-like decoder.

    Args:
        shape: its layers and projections.
        queries: values of all query heads of a token.
        keys: values of all key heads of a token; as many are cached again for values.
        quantised: how its weights are kept, where its config says so.
    """

    name: str
    shape: BaseShape
    hidden: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool
    max_length: int | None = None
    quantised: str | None = None

    @property
    def layer_weights(self) -> int:
        """Weights of all projections of all layers."""
        return self.shape.layers * sum(
            inputs * outputs for inputs, outputs in self.shape.projections.values()
        )

    @property
    def head_bytes(self) -> int:
        """The output's weights."""
        return self.vocabulary * self.hidden * _HALF

    def weight_bytes(self, quantisation: Quantisation) -> float:
        """In memory."""
        return self.layer_weights * quantisation.bytes_a_weight + self.head_bytes * (1 if self.tied else 2)

    def read_bytes(self, quantisation: Quantisation) -> float:
        """What a forward pass reads of them: all but the table of embeddings."""
        return self.layer_weights * quantisation.bytes_a_weight + self.head_bytes

    @property
    def flop_a_token(self) -> float:
        """Products of a token of a prompt with the layers' weights."""
        return 2.0 * self.layer_weights

    @property
    def head_flop(self) -> float:
        """Products of a token that is decoded with the output's weights."""
        return 2.0 * self.vocabulary * self.hidden

    def attention_flop(self, tokens: int) -> float:
        """Attention over a whole prompt, each token to those before it."""
        return 2.0 * self.shape.layers * self.queries * tokens**2

    @property
    def cache_bytes_a_token(self) -> int:
        """Keys and values of a token."""
        return 2 * self.shape.layers * self.keys * _HALF

    def adapter_weights(self, rank: int) -> int:
        """Weights of a LoRA adapter on all seven projections."""
        values = sum(inputs + outputs for inputs, outputs in self.shape.projections.values())
        return self.shape.layers * values * rank

    def adapter_bytes(self, rank: int) -> int:
        """An adapter in a slot."""
        return self.adapter_weights(rank) * _HALF


def load_model(source: str) -> Model:
    """The model ``llama-3.1-8b``, or that of a folder with a config.json.

    Raises:
        SettingsError: no such folder, no readable config.json, or not a Llama-like decoder.
    """
    if source == DEFAULT_MODEL:
        text = (resources.files("dear_serving.sizing") / f"{DEFAULT_MODEL}.json").read_text(encoding="utf-8")
        return model_of(DEFAULT_MODEL, json.loads(text))
    folder = Path(source)
    if not folder.is_dir():
        raise SettingsError(f"--model: no such folder {source}; without a folder there is {DEFAULT_MODEL}")
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise SettingsError(f"--model: {source} has no config.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--model: {source}/config.json is not readable JSON: {error}") from None
    return model_of(folder.resolve().name, config)


def model_of(name: str, config: Any) -> Model:
    """A model by its config.

    Raises:
        SettingsError: it is not a Llama-like decoder; the message names the fields.
    """
    where = f"--model: the config.json of {name}"
    if not isinstance(config, Mapping):
        raise SettingsError(f"{where} is not a JSON object")
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if kinds and not any(kind.endswith("ForCausalLM") for kind in kinds):
        raise SettingsError(f"{where} is of a {kinds[0]}, not of a decoder such as LlamaForCausalLM")
    if missing := [field for field in _SIZES if field not in config]:
        raise SettingsError(f"{where} is not that of a Llama-like decoder: it has no {', '.join(missing)}")
    if experts := [field for field in config if "experts" in field and (config[field] or 0) != 0]:
        raise SettingsError(f"{where} has {experts[0]}: mixtures of experts are not planned for")
    optional = [field for field in ("num_key_value_heads", "head_dim") if config.get(field) is not None]
    for field in (*_SIZES, *optional):
        value = config[field]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f"{where}: {field} is {value!r}, not a positive whole number")
    shape = BaseShape.from_config(config)
    length = config.get("max_position_embeddings")
    return Model(
        name=name,
        shape=shape,
        hidden=config["hidden_size"],
        queries=shape.projections["q_proj"][1],
        keys=shape.projections["k_proj"][1],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        max_length=length if isinstance(length, int) and length > 0 else None,
        quantised=_quantised(config.get("quantization_config"), where),
    )


def _quantised(config: Any, where: str) -> str | None:
    """The name of a checkpoint's quantisation, None for bfloat16."""
    if not isinstance(config, Mapping):
        return None
    method = str(config.get("quant_method"))
    if method in ("awq", "gptq") and config.get("bits", 4) == 4:
        return "awq"
    if method == "fp8":
        return "fp8"
    if method == "compressed-tensors":
        groups = config.get("config_groups")
        found = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
        kinds = {(one.get("num_bits"), one.get("type")) for one in found if isinstance(one, Mapping)}
        named = {(8, "int"): "int8", (8, "float"): "fp8", (4, "int"): "awq"}
        if len(kinds) == 1 and (kind := kinds.pop()) in named:
            return named[kind]
    raise SettingsError(
        f"{where}: quantization_config {method!r} is not planned for; "
        "name the folder of the model in bfloat16, and give --quantization"
    )
