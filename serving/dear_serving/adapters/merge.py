"""Merges an adapter into its base model: a full model that needs no LoRA."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from dear_serving.adapters.base_files import is_url
from dear_serving.adapters.preflight import adapters_base, base_shape, check_adapter
from dear_serving.adapters.store import UNFINISHED
from dear_serving.errors import SettingsError

_MAX_RANK = 512


def merge(adapter: Path, output: Path, base: str | None = None, other_bases: Sequence[str] = ()) -> None:
    """Write the model ``base`` with ``adapter`` merged into it, and the base's tokenizer.

    The weights keep the base's type: an element of the result may be one rounding away from the sum.

    Args:
        adapter: folder of a LoRA adapter, as PEFT saves it.
        output: folder to make. It is complete or absent.
        base: folder or Hugging Face id; None: what the adapter names.
        other_bases: Hugging Face ids of other models whose adapters fit the base.

    Raises:
        InvalidAdapterFiles: the adapter's files are wrong, or not for this base.
        SettingsError: the base cannot be used, ``output`` exists or cannot be written, or PEFT is missing.
    """
    if output.exists():
        raise SettingsError(f"{output} exists already; name a folder that does not")
    base = base or adapters_base(adapter.name, adapter)
    if is_url(base):
        raise SettingsError(f"{base}: to merge, a base in a folder or on the Hugging Face hub is needed")
    try:
        shape = base_shape(base, tuple(other_bases))
    except SettingsError as error:
        raise SettingsError(error.message.replace("model.source", "the base", 1)) from None
    check_adapter(adapter.name, adapter, shape, _MAX_RANK)
    try:
        _write(adapter, output, base)
    except (OSError, ValueError) as error:  # a full disk, or weights that transformers cannot read
        reason = str(error).strip().split("\n", 1)[0]
        raise SettingsError(f"{adapter.name} and {base} cannot be merged: {reason}") from None


def _write(adapter: Path, output: Path, base: str) -> None:
    try:
        from peft import PeftModel
    except ModuleNotFoundError:
        raise SettingsError("peft is not installed: pip install dear-serving[bench], to merge") from None
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if getattr(AutoConfig.from_pretrained(base), "quantization_config", None) is not None:
        raise SettingsError(f"{base} is quantised; merge with the model that it was made from")
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=output.parent) as unfinished:
        folder = Path(unfinished) / output.name
        merged.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        folder.rename(output)
