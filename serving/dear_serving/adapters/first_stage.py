"""Checks the first stage in the settings, before anything starts: what can be seen in its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dear_serving.adapters.base_files import model_config
from dear_serving.adapters.template_files import load_template
from dear_serving.errors import SettingsError
from dear_serving.settings import Settings

_TOKENIZER_FILE = "tokenizer.json"


def check_first_stage(settings: Settings, folder: Path | None, base: str) -> None:
    """Check that the first stage's template asks about one passage, that its adapter has the base model's
    tokenizer, and that a model of its own is a sequence classifier with one score.

    Args:
        folder: of its adapter; None: it is the base model.
        base: folder, URL or Hugging Face id of the base model.

    Raises:
        SettingsError: it does not; one sentence that names the setting.
    """
    stage, template = settings.first_stage, settings.first_stage_template()
    if stage is None or template is None:
        return
    asked = load_template(template, settings.ranking.templates)
    if not asked.is_pointwise:
        raise SettingsError(
            f'first_stage: the template "{template}" of {stage.model} shows several passages; set '
            "first_stage.template to one with labels, such as yes-no"
        )
    if stage.source is not None:
        assert stage.engine is not None
        _check_classifier(stage.source, stage.engine.engine_kwargs.get("hf_overrides") or {})
        return
    if not asked.labels:
        raise SettingsError(
            f'first_stage: the template "{template}" has no labels, and is for a model with a head that '
            f"scores (first_stage.source); {stage.model} has none"
        )
    if folder is not None:
        _check_tokenizer(stage.model, folder, base)


def _check_classifier(source: str, overrides: dict[str, Any]) -> None:
    """Refuse a model that vLLM would not run as a sequence classifier with one score.

    Args:
        overrides: vLLM's hf_overrides, which make classifiers of some models that are none by their config.
    """
    config = model_config(source, "first_stage.source") | overrides
    names = config.get("architectures") or ["nothing"]
    if not any("ForSequenceClassification" in str(name) for name in names):
        raise SettingsError(
            f"first_stage.source: {source} is {', '.join(map(str, names))}, no sequence classifier; for a "
            "model that answers with a word, see vLLM's classifier_from_token "
            "(engine.engine_kwargs.hf_overrides)"
        )
    if "classifier_from_token" in config:
        return  # vLLM makes one score of its tokens
    # As transformers has it, where the config does not say.
    numbers = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    if numbers != 1:
        raise SettingsError(
            f"first_stage.source: the head of {source} gives {numbers} numbers, a first stage needs one "
            "(num_labels in its config.json)"
        )


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
