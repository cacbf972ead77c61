"""Turns an adapter with a scalar head into one that answers with a label: plain LoRA, for the same engines.

PEFT saves a sequence classifier's head whole (``modules_to_save``), which vLLM does not load beside LoRA. But
a head of one row is a matrix of rank one: as LoRA on the output layer, it adds the score, times a scale, to
the logit of one label. The scale makes the base's own logits of the two labels count for nothing beside it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dear_serving.adapters.preflight import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    WEIGHTS_FILE,
    adapters_base,
    base_shape,
    check_adapter,
)
from dear_serving.adapters.store import UNFINISHED
from dear_serving.adapters.template_files import load_template
from dear_serving.errors import InvalidAdapterFiles, SettingsError

_MAX_RANK = 512
_HEADS = ("base_model.model.score.weight", "base_model.model.classifier.weight")
_OUTPUT = "base_model.model.lm_head.lora_{}.weight"


def convert_head(
    adapter: Path,
    output: Path,
    template: str,
    base: str | None = None,
    *,
    templates: Path | None = None,
    other_bases: Sequence[str] = (),
) -> None:
    """Write an adapter whose answer is the first of the template's labels, by the head's score.

    The log odds of that label against the others are the score times the template's ``label_scale``. bfloat16
    rounds them, as it would round the score.

    Args:
        adapter: folder of a PEFT LoRA with a head of one row, task type SEQ_CLS.
        output: folder to make. It is complete or absent.
        template: name of the pointwise template that the adapter will serve with.
        base: folder or Hugging Face id; None: what the adapter names.
        templates: folder with templates of the user's own.
        other_bases: Hugging Face ids of other models whose adapters fit the base.

    Raises:
        InvalidAdapterFiles: the adapter is no sequence classifier, its head has another shape, or its LoRA
            does not fit the base.
        SettingsError: the base or the template cannot be used, or ``output`` exists or cannot be written.
    """
    from safetensors.torch import load_file, save_file

    if output.exists():
        raise SettingsError(f"{output} exists already; name a folder that does not")
    asked = load_template(template, templates)
    if not asked.labels:
        raise SettingsError(f'template "{template}" has no labels; name one for a first stage')
    base = base or adapters_base(adapter.name, adapter)
    try:
        shape = base_shape(base, tuple(other_bases))
    except SettingsError as error:
        raise SettingsError(error.message.replace("model.source", "the base", 1)) from None
    config = _config(adapter)
    try:
        tensors = load_file(adapter / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": {WEIGHTS_FILE} cannot be read: {error}'
        ) from None
    head = _take_head(adapter, tensors, shape.head[0])
    rank = int(config["r"])
    labels = [_first_token(base, label) for label in asked.labels]
    scaling = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    reads = head.new_zeros(rank, head.shape[1])
    reads[0] = head[0]
    writes = head.new_zeros(shape.head[1], rank)
    writes[labels[0], 0] = asked.label_scale / scaling
    tensors |= {_OUTPUT.format("A"): reads, _OUTPUT.format("B"): writes}
    changes = {"task_type": "CAUSAL_LM", "modules_to_save": None}
    config |= changes | {"target_modules": [*config["target_modules"], "lm_head"]}
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=output.parent) as unfinished:
            folder = Path(unfinished) / output.name
            folder.mkdir()
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            check_adapter(adapter.name, folder, shape, _MAX_RANK, shown=str(adapter))
            folder.rename(output)
    except OSError as error:
        raise SettingsError(f"{output} cannot be written: {error.strerror}") from None


def _config(adapter: Path) -> dict[str, Any]:
    """The adapter's settings, if they are a sequence classifier's."""
    file = adapter / CONFIG_FILE
    try:
        config = json.loads(file.read_bytes()[:MAX_CONFIG_BYTES])
        is_classifier = config.get("task_type") == "SEQ_CLS"
        numbers = [config["r"], config["lora_alpha"], len(config["target_modules"])]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": no readable settings of a LoRA ({file})'
        ) from None
    if not is_classifier:
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": task_type is {config.get("task_type")!r}, it is no sequence '
            f"classifier, SEQ_CLS ({file})"
        )
    if not all(isinstance(one, int | float) and one > 0 for one in numbers):
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": r and lora_alpha are no positive numbers ({file})'
        )
    found: dict[str, Any] = config
    return found


def _take_head(adapter: Path, tensors: dict[str, Any], hidden: int) -> Any:
    """Remove the head from the tensors, and return it: [1, hidden]."""
    found = [name for name in _HEADS if name in tensors]
    if len(found) != 1:
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": it has no head, {" or ".join(_HEADS)} ({adapter}/{WEIGHTS_FILE})'
        )
    head = tensors.pop(found[0])
    if tuple(head.shape) != (1, hidden):
        raise InvalidAdapterFiles(
            f'adapter "{adapter.name}": its head {found[0]} has shape {tuple(head.shape)}, one score for a '
            f"hidden size of {hidden} needs {(1, hidden)} ({adapter}/{WEIGHTS_FILE})"
        )
    if not np.isfinite(head.float().numpy()).all():
        raise InvalidAdapterFiles(f'adapter "{adapter.name}": its head holds what is no finite number')
    return head


def _first_token(base: str, label: str) -> int:
    """The first token of a label, with the base's tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise SettingsError(f"the base {base} has no tokenizer: {reason}") from None
    return int(tokenizer.encode(label, add_special_tokens=False)[0])
