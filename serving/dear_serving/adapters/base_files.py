"""The small files of a base model that lies in an object store: its config and its tokenizer."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from dear_serving.errors import SettingsError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""A model's id on the Hugging Face hub, or a relative folder of two parts."""

_SMALL = (".json", ".jinja", ".model", ".txt")
_NOT_SMALL = ".safetensors.index.json"


def is_url(source: str) -> bool:
    """Whether a base model's source is a URL, such as ``s3://bucket/model``."""
    return "://" in source


def is_hub_id(source: str) -> bool:
    """Whether a base model's source is a Hugging Face id, such as ``org/model``."""
    return HUB_ID.fullmatch(source) is not None and source[0] != "." and not Path(source).is_dir()


def unpinned(source: str) -> str | None:
    """A warning, if the base model's files may be others at the next start."""
    if not is_hub_id(source):
        return None
    return (
        f"model.source: {source} is the newest on the hub at each start; to pin it, run "
        f"hf download {source} --revision COMMIT --local-dir FOLDER and name the folder"
    )


def read_config(source: str, setting: str = "model.source") -> dict[str, Any]:
    """The ``config.json`` of the base model at a URL.

    Raises:
        SettingsError: there is none, it cannot be read, or the URL's driver is not installed.
    """
    url = source.rstrip("/")
    files, path = _opened(url)
    try:
        config: dict[str, Any] = json.loads(files.cat_file(f"{path}/config.json"))
    except FileNotFoundError:
        raise SettingsError(f"{setting}: {url} has no config.json") from None
    except Exception as error:  # remote filesystems raise errors of their own kinds
        kind = type(error).__name__
        raise SettingsError(f"{setting}: {url}/config.json cannot be read ({kind})") from None
    return config


def model_config(source: str, setting: str = "model.source") -> dict[str, Any]:
    """A model's config.json, from its folder or URL, the Hugging Face cache or the hub.

    Raises:
        SettingsError: it cannot be read; the message begins with the ``setting`` that names the model.
    """
    if is_url(source):
        return read_config(source, setting)
    if source.startswith(("/", ".")) and not Path(source).is_dir():
        raise SettingsError(f"{setting}: no such folder {source}")
    if Path(source).is_dir():
        try:
            config: dict[str, Any] = json.loads((Path(source) / "config.json").read_bytes())
            return config
        except (OSError, ValueError) as error:
            raise SettingsError(f"{setting}: no readable config.json in {source}: {error}") from None
    from transformers import AutoConfig

    try:
        return dict(AutoConfig.from_pretrained(source).to_dict())
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise SettingsError(
            f"{setting}: {source} is no folder here, and as a Hugging Face model: {reason}"
        ) from None


@contextmanager
def local_files(source: str) -> Iterator[str]:
    """A folder with the base model's config and tokenizer: a copy that ends with the block, for a URL.

    Any other source, a folder or a Hugging Face id, is given back as it is.

    Raises:
        SettingsError: the files cannot be read, or the URL's driver is not installed.
    """
    if not is_url(source):
        yield source
        return
    files, path = _opened(source.rstrip("/"))
    with tempfile.TemporaryDirectory(prefix="dear-base-") as folder:
        try:
            for file in files.ls(path, detail=False):
                name = Path(file).name
                if name.endswith(_SMALL) and not name.endswith(_NOT_SMALL):
                    files.get_file(file, f"{folder}/{name}")
        except Exception as error:  # remote filesystems raise errors of their own kinds
            raise SettingsError(f"model.source: {source} cannot be read ({type(error).__name__})") from None
        yield folder


def _opened(url: str) -> tuple[Any, str]:
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise SettingsError(f"model.source: {' '.join(str(error).split())}") from None
    return files, str(path)
