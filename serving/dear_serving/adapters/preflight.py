"""Checks an adapter folder against its base model before an engine loads it.

A bad adapter can crash a running vLLM or corrupt its answers (vllm #3310, #5105, #11702). So all that the
files show is checked here: PEFT settings, target modules, and every tensor's name, shape, type and values.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from dear_serving.adapters.base_files import HUB_ID, is_hub_id, model_config
from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.first_stage import check_first_stage
from dear_serving.adapters.template_files import load_template
from dear_serving.errors import InvalidAdapterFiles, SettingsError
from dear_serving.settings import AdapterSettings, Settings

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILES = (WEIGHTS_FILE, CONFIG_FILE)
"""The files of an adapter."""

MAX_CONFIG_BYTES = 1 << 20
"""Maximum size of adapter_config.json, in bytes."""

OUTPUT_LAYER = "lm_head"
"""The output layer's name as a target module; it counts as one of layer 0."""

_TENSOR = re.compile(
    r"^base_model\.model\."
    r"(?:model\.layers\.(?P<layer>[0-9]{1,6})"
    r"\.(?:self_attn\.(?=[qkvo]_)|mlp\.(?=(?:gate|up|down)_))(?P<module>[a-z]+_proj)|(?P<output>lm_head))"
    r"\.lora_(?P<side>[AB])\.weight\Z"
)
# Type -> (numpy type to read it as, bits of the exponent). In infinities and NaNs all exponent bits are set.
_FLOATS = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}
_CHUNK_BYTES = 1 << 20
_UNSUPPORTED = (
    *("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "lora_bias"),
    *("alora_invocation_tokens", "trainable_token_indices", "target_parameters", "fan_in_fan_out"),
    *("use_qalora", "use_bdlora"),
)


def check_models(settings: Settings) -> None:
    """Check every folder and template in the settings, before anything starts.

    Raises:
        StartupError: a folder is missing, a template is wrong, an adapter does not fit the base, or the first
            stage can be none.
    """
    for name in set(settings.templates().values()):
        load_template(name, settings.ranking.templates)
    source = base_source(settings)
    base = base_shape(source, settings.adapters.bases)
    folders = {adapter.name: adapter_folder(settings, adapter) for adapter in settings.adapters.serve}
    for name, folder in folders.items():
        check_adapter(name, folder, base, settings.engine.max_lora_rank)
    if settings.first_stage is not None:
        check_first_stage(settings, folders.get(settings.first_stage.model), source)


def base_shape(source: str, bases: tuple[str, ...] = ()) -> BaseShape:
    """The shape of the base model at ``source``; ``bases`` are other models whose adapters fit it.

    Raises:
        SettingsError: the model's config cannot be read, or it is not Llama-like.
    """
    try:
        return BaseShape.from_config(model_config(source), (source, *bases) if is_hub_id(source) else ())
    except KeyError as error:
        raise SettingsError(f"model.source: the config of {source} has no {error}") from None
    except (TypeError, AttributeError):
        raise SettingsError(f"model.source: the config of {source} is not a model's") from None


def base_source(settings: Settings) -> str:
    """Folder, URL or Hugging Face id of the base model: the setting, else the first adapter's base model.

    Raises:
        InvalidAdapterFiles: the adapter does not name its base model.
    """
    if settings.model.source is not None:
        return settings.model.source
    adapter = settings.adapters.serve[0]
    return adapters_base(adapter.name, adapter_folder(settings, adapter))


def adapters_base(name: str, folder: Path) -> str:
    """The base model that an adapter names in its settings.

    Raises:
        InvalidAdapterFiles: it names none.
    """
    source = _read_config(name, folder, str(folder)).get("base_model_name_or_path")
    if not isinstance(source, str) or not source:
        raise InvalidAdapterFiles(
            f'adapter "{name}" does not name its base model; set model.source ({CONFIG_FILE})'
        )
    return source


def adapter_folder(settings: Settings, adapter: AdapterSettings) -> Path:
    """The adapter's folder, with links resolved.

    Raises:
        InvalidAdapterFiles: the folder is missing, or it or a file in it is outside ``adapters.root``.
    """
    root = settings.adapters.root.resolve()
    folder = (root / adapter.path).resolve()
    if not folder.is_relative_to(root):
        raise InvalidAdapterFiles(f'adapter "{adapter.name}": {adapter.path} is outside {root}')
    if not folder.is_dir():
        raise InvalidAdapterFiles(f'adapter "{adapter.name}": no such folder {folder}')
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).resolve().is_relative_to(root):
            raise InvalidAdapterFiles(f'adapter "{adapter.name}": {name} links outside {root} ({folder})')
    return folder


def check_adapter(name: str, folder: Path, base: BaseShape, max_rank: int, shown: str | None = None) -> int:
    """Check that vLLM can serve an adapter on this base model.

    Args:
        name: the adapter's public name, for messages.
        folder: contains adapter_config.json and adapter_model.safetensors.
        base: shapes of the base model.
        max_rank: the engine's max_lora_rank.
        shown: name of the folder in messages; None: its path.

    Returns:
        The adapter's rank.

    Raises:
        InvalidAdapterFiles: one sentence with the adapter, the reason and the file.
    """
    shown = str(folder) if shown is None else shown
    config = _read_config(name, folder, shown)
    for problem in _config_problems(config, base, max_rank):
        raise InvalidAdapterFiles(f'adapter "{name}": {problem} ({shown}/{CONFIG_FILE})')
    for problem in _weight_problems(folder, config, base):
        raise InvalidAdapterFiles(f'adapter "{name}": {problem} ({shown}/{WEIGHTS_FILE})')
    return int(config["r"])


def digest(folder: Path) -> str:
    """SHA-256 over an adapter's settings and weights, 64 hex digits; identifies a revision."""
    with (folder / WEIGHTS_FILE).open("rb") as weights, (folder / CONFIG_FILE).open("rb") as config:
        return digest_of(weights, config)


def digest_of(weights: BinaryIO, config: BinaryIO) -> str:
    """As ``digest``, from open files."""
    inner = hashlib.sha256()
    while chunk := weights.read(_CHUNK_BYTES):
        inner.update(chunk)
    whole = hashlib.sha256(inner.digest())
    whole.update(config.read(MAX_CONFIG_BYTES + 1))
    return whole.hexdigest()


def _read_config(name: str, folder: Path, shown: str) -> dict[str, Any]:
    file = f"{shown}/{CONFIG_FILE}"
    try:
        if (folder / CONFIG_FILE).stat().st_size > MAX_CONFIG_BYTES:
            raise InvalidAdapterFiles(f'adapter "{name}": over {MAX_CONFIG_BYTES:,} bytes ({file})')
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except OSError as error:
        raise InvalidAdapterFiles(f'adapter "{name}": {error.strerror} ({file})') from None
    except (ValueError, RecursionError):
        raise InvalidAdapterFiles(f'adapter "{name}": not valid JSON ({file})') from None
    if not isinstance(config, dict):
        raise InvalidAdapterFiles(f'adapter "{name}": not a JSON object ({file})')
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
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < math.inf:
        yield f"lora_alpha is {alpha!r}, not a positive number"
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
        yield f"target_modules is {targets!r}, not a list of module names"
    elif unknown := sorted(set(targets) - {*base.projections, OUTPUT_LAYER}):
        yield f"target_modules {', '.join(unknown)} are not served"
    trained_on = config.get("base_model_name_or_path")
    if (
        isinstance(trained_on, str)
        and base.hub_ids
        and HUB_ID.fullmatch(trained_on)
        and trained_on.lower() not in map(str.lower, base.hub_ids)
    ):
        yield f"it was trained on {trained_on}, the base model here is {base.hub_ids[0]} (see adapters.bases)"
    if config.get("task_type") == "SEQ_CLS":
        yield "it is a sequence classifier, whose head vLLM does not load beside LoRA; see dear convert-head"
    for key in _UNSUPPORTED:
        if config.get(key):
            yield f"{key} is not supported"
    if config.get("bias", "none") != "none":
        yield f"bias {config['bias']!r} is not supported"


def _weight_problems(folder: Path, config: dict[str, Any], base: BaseShape) -> Iterator[str]:
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = sorted(file.name for file in folder.glob("adapter_model.*"))
        yield "weights must be safetensors" + (f", found {', '.join(pickled)}" if pickled else "")
        return
    size, max_bytes = (folder / WEIGHTS_FILE).stat().st_size, base.most_bytes(config["r"])
    if size > max_bytes:
        yield f"{size:,} bytes are more than an adapter of rank {config['r']} can have here, {max_bytes:,}"
        return
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="np") as weights:
            found: set[tuple[int, str, str]] = set()
            for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                match = _TENSOR.match(key)
                if match is None:
                    yield f"unexpected tensor {key}"
                    return
                module, side = match["module"] or OUTPUT_LAYER, match["side"]
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
                    return
                found.add((int(match["layer"] or 0), module, side))
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
            return
    if (key := _first_not_finite(folder / WEIGHTS_FILE)) is not None:
        yield f"tensor {key} holds what is no finite number"


def _first_not_finite(file: Path) -> str | None:
    """The name of a tensor that contains an infinity or a NaN, which would spoil a whole batch.

    Args:
        file: a readable safetensors file with the types in _FLOATS.
    """
    with file.open("rb") as weights:
        length = int.from_bytes(weights.read(8), "little")
        header: dict[str, Any] = json.loads(weights.read(length))
    data = np.memmap(file, np.uint8, mode="r", offset=8 + length)
    for key, tensor in header.items():
        if key == "__metadata__":
            continue
        kind, exponent = _FLOATS[tensor["dtype"]]
        start, end = tensor["data_offsets"]
        # Copy, because a tensor may start at an unaligned position in the file.
        bits = np.frombuffer(data[start:end].tobytes(), kind)
        if ((bits & exponent) == exponent).any():
            return key
    return None


def _wanted_shape(base: BaseShape, rank: int, module: str, side: str) -> tuple[int, int]:
    inputs, outputs = base.head if module == OUTPUT_LAYER else base.projections[module]
    return (rank, inputs) if side == "A" else (outputs, rank)
