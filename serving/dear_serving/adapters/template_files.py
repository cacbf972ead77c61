"""Loads prompt templates from the user's folder or from the server's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from dear_serving.errors import SettingsError
from dear_serving.ranking.template import Template
from dear_serving.settings import describe
from dear_tools.plain_yaml import load_yaml


def load_template(name: str, folder: Path | None) -> Template:
    """Read the template ``name`` from ``folder/name.yaml``, else from the server's own templates.

    Raises:
        SettingsError: no such template, or its file is wrong; the message names the file.
    """
    own = resources.files("dear_serving.ranking") / "templates"
    candidates = [own / f"{name}.yaml"]
    if folder is not None:
        candidates.insert(0, folder / f"{name}.yaml")
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None or "/" in name:
        known = sorted(template.name.removesuffix(".yaml") for template in own.iterdir())
        raise SettingsError(
            f'no prompt template "{name}" in {folder or "the server"}; it comes with {", ".join(known)}'
        )
    try:
        data = load_yaml(file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise SettingsError(f"{file} does not hold a mapping")
        return Template.model_validate({"name": name} | data)
    except ValidationError as error:
        raise SettingsError(f"{file}: {describe(error)}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date
        raise SettingsError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
