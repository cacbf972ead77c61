"""Checks the first stage in the settings, before anything starts."""

from __future__ import annotations

from pathlib import Path

from dear_serving.adapters.template_files import load_template
from dear_serving.errors import SettingsError
from dear_serving.settings import Settings

_TOKENIZER_FILE = "tokenizer.json"


def check_first_stage(settings: Settings, folder: Path | None, base: str) -> None:
    """Check that the first stage's template asks about one passage, and that its adapter has the base model's
    tokenizer.

    Args:
        folder: of its adapter; None: it is the base model.
        base: folder, URL or Hugging Face id of the base model.

    Raises:
        SettingsError: it does not; one sentence that names the setting.
    """
    stage, template = settings.first_stage, settings.first_stage_template()
    if stage is None or template is None:
        return
    if not load_template(template, settings.ranking.templates).labels:
        raise SettingsError(
            f'first_stage: the template "{template}" of {stage.model} asks for no label after a passage; set '
            "first_stage.template to one with labels, such as yes-no"
        )
    if folder is not None:
        _check_tokenizer(stage.model, folder, base)


def _check_tokenizer(name: str, folder: Path, base: str) -> None:
    """Refuse a tokenizer in the adapter's folder that gives a token of the base another id: the adapter was
    trained on another model. More tokens, such as one for padding, are never written into a prompt.
    """
    file = folder / _TOKENIZER_FILE
    if not file.is_file():
        return
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    try:
        own = Tokenizer.from_file(str(file)).get_vocab()
    except Exception as error:  # tokenizers raises bare Exception
        raise SettingsError(f"first_stage.model: {file} cannot be read: {error}") from None
    theirs = AutoTokenizer.from_pretrained(base).get_vocab()
    if any(own.get(token) != number for token, number in theirs.items()):
        raise SettingsError(
            f"first_stage.model: {name} comes with another tokenizer than the base model {base} ({file}); a "
            "first stage in the same engines needs an adapter of this base"
        )
