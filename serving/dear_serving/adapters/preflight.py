"""Checks an adapter folder against its base model before an engine ever sees it.

A bad adapter can kill or poison a running vLLM (vllm #3310, #5105, #11702), so everything that can be
known from the files is checked here: PEFT settings, target modules, and every tensor's name, shape and type.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dear_serving.adapters.templates import load_template
from dear_serving.errors import AdapterError, SettingsError
from dear_serving.settings import AdapterSettings, Settings

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_TENSOR = re.compile(
    r"^base_model\.model\.model\.layers\.(?P<layer>[0-9]{1,6})"
    r"\.(?:self_attn\.(?=[qkvo]_)|mlp\.(?=(?:gate|up|down)_))(?P<module>[a-z]+_proj)"
    r"\.lora_(?P<side>[AB])\.weight\Z"
)
_FLOATS = {"F16", "BF16", "F32"}


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Of a Llama-like base model: layers, and (inputs, outputs) of each projection LoRA may target."""

    layers: int
    projections: Mapping[str, tuple[int, int]]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BaseShape:
        """Read a model's ``config.json``; raises KeyError where it is not Llama-like."""
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        queries = heads * head_dim
        keys = (config.get("num_key_value_heads") or heads) * head_dim
        return cls(
            layers=config["num_hidden_layers"],
            projections={
                "q_proj": (hidden, queries),
                "k_proj": (hidden, keys),
                "v_proj": (hidden, keys),
                "o_proj": (queries, hidden),
                "gate_proj": (hidden, inner),
                "up_proj": (hidden, inner),
                "down_proj": (inner, hidden),
            },
        )


def check_models(settings: Settings) -> None:
    """Look at every folder and template the settings name, before anything starts.

    Raises:
        StartupError: a folder is missing, a template is wrong, or an adapter does not fit the base.
    """
    for name in set(settings.templates().values()):
        load_template(name, settings.ranking.templates)
    source = base_source(settings)
    try:
        base = BaseShape.from_config(_base_config(source))
    except KeyError as error:
        raise SettingsError(f"model.source: the config of {source} has no {error}") from None
    except (TypeError, AttributeError):
        raise SettingsError(f"model.source: the config of {source} is not a model's") from None
    for adapter in settings.adapters.serve:
        folder = adapter_folder(settings, adapter)
        check_adapter(adapter.name, folder, base, settings.engine.max_lora_rank)


def _base_config(source: str) -> dict[str, Any]:
    """The base model's config.json, from its folder or from the Hugging Face hub or its cache."""
    if source.startswith(("/", ".")) and not Path(source).is_dir():
        raise SettingsError(f"model.source: no such folder {source}")
    if Path(source).is_dir():
        try:
            config: dict[str, Any] = json.loads((Path(source) / "config.json").read_bytes())
            return config
        except (OSError, ValueError) as error:
            raise SettingsError(f"model.source: no readable config.json in {source}: {error}") from None
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(source).to_dict())
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise SettingsError(
            f"model.source: {source} is no folder here, and as a Hugging Face model: {reason}"
        ) from None


def base_source(settings: Settings) -> str:
    """Where the base model comes from: the setting, else what the first adapter was trained on.

    Raises:
        AdapterError: the adapter does not say.
    """
    if settings.model.source is not None:
        return settings.model.source
    adapter = settings.adapters.serve[0]
    config = _read_config(adapter.name, adapter_folder(settings, adapter))
    source = config.get("base_model_name_or_path")
    if not isinstance(source, str) or not source:
        raise AdapterError(
            f'adapter "{adapter.name}" does not name its base model; set model.source ({CONFIG_FILE})'
        )
    return source


def adapter_folder(settings: Settings, adapter: AdapterSettings) -> Path:
    """The adapter's folder, links resolved.

    Raises:
        AdapterError: it is not there, or it or a file in it lies outside ``adapters.root``.
    """
    root = settings.adapters.root.resolve()
    folder = (root / adapter.path).resolve()
    if not folder.is_relative_to(root):
        raise AdapterError(f'adapter "{adapter.name}": {adapter.path} is outside {root}')
    if not folder.is_dir():
        raise AdapterError(f'adapter "{adapter.name}": no such folder {folder}')
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).resolve().is_relative_to(root):
            raise AdapterError(f'adapter "{adapter.name}": {name} links outside {root} ({folder})')
    return folder


def check_adapter(name: str, folder: Path, base: BaseShape, max_rank: int) -> None:
    """Refuse what vLLM could not serve on this base model.

    Args:
        name: the adapter's public name, for messages.
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: shapes of the base model.
        max_rank: the engine's max_lora_rank.

    Raises:
        AdapterError: one sentence with the adapter, the reason and the file.
    """
    config = _read_config(name, folder)
    for problem in _config_problems(config, base, max_rank):
        raise AdapterError(f'adapter "{name}": {problem} ({folder / CONFIG_FILE})')
    for problem in _weight_problems(folder, config, base):
        raise AdapterError(f'adapter "{name}": {problem} ({folder / WEIGHTS_FILE})')


def digest(folder: Path) -> str:
    """First 12 hex digits of the SHA-256 over an adapter's settings and weights: what a revision is."""
    with (folder / WEIGHTS_FILE).open("rb") as weights:
        whole = hashlib.sha256(hashlib.file_digest(weights, "sha256").digest())
    whole.update((folder / CONFIG_FILE).read_bytes())
    return whole.hexdigest()[:12]


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise AdapterError(f'adapter "{name}": {error.strerror} ({file})') from None
    except ValueError:
        raise AdapterError(f'adapter "{name}": not valid JSON ({file})') from None
    if not isinstance(config, dict):
        raise AdapterError(f'adapter "{name}": not a JSON object ({file})')
    return config


def _config_problems(config: dict[str, Any], base: BaseShape, max_rank: int) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}, only LORA is served"
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield f"rank r is {rank!r}, not a positive number"
    elif rank > max_rank:
        yield f"rank {rank} is over max_lora_rank {max_rank}"
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or alpha <= 0:
        yield f"lora_alpha is {alpha!r}, not a positive number"
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
        yield f"target_modules is {targets!r}, not a list of module names"
    elif unknown := sorted(set(targets) - set(base.projections)):
        yield f"target_modules {', '.join(unknown)} are not served"
    for key in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            yield f"{key} is not supported"
    if config.get("bias", "none") != "none":
        yield f"bias {config['bias']!r} is not supported"


def _weight_problems(folder: Path, config: dict[str, Any], base: BaseShape) -> Iterator[str]:
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = sorted(one.name for one in folder.glob("adapter_model.*"))
        yield "weights must be safetensors" + (f", found {', '.join(pickled)}" if pickled else "")
        return
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="np") as weights:
            found: set[tuple[int, str, str]] = set()
            for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                match = _TENSOR.match(key)
                if match is None:
                    yield f"unexpected tensor {key}"
                    return
                module, side = match["module"], match["side"]
                if module not in config["target_modules"]:
                    yield f"tensor {key} is of no target module"
                    return
                piece = weights.get_slice(key)
                shape, wanted = (
                    tuple(piece.get_shape()),
                    _wanted_shape(base, config["r"], module, side),
                )
                if shape != wanted:
                    yield f"tensor {key} has shape {shape}, the base model needs {wanted}"
                if piece.get_dtype() not in _FLOATS:
                    yield f"tensor {key} has type {piece.get_dtype()}"
                found.add((int(match["layer"]), module, side))
    except (SafetensorError, OSError) as error:
        yield f"not a readable safetensors file: {error}"
        return
    if any(layer >= base.layers for layer, _, _ in found):
        yield f"has tensors for layer {max(found)[0]}, the base model has {base.layers} layers"
    if not found:
        yield "holds no tensors"
    for layer, module, side in sorted(found):
        other = "B" if side == "A" else "A"
        if (layer, module, other) not in found:
            yield f"lora_{other} of {module} in layer {layer} is missing"


def _wanted_shape(base: BaseShape, rank: int, module: str, side: str) -> tuple[int, int]:
    inputs, outputs = base.projections[module]
    return (rank, inputs) if side == "A" else (outputs, rank)
