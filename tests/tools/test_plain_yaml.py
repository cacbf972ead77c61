"""YAML that others wrote: read in bounded time and memory, or refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dear_serving.adapters.template_files import load_template
from dear_serving.settings import load_settings
from dear_tools.admin.apply_file import read_apply_file
from dear_tools.plain_yaml import load_yaml

LEVELS = "abcdefghij"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise(LEVELS)
)
"""A list of 10 to the power of 10 places in 500 bytes."""

REFUSED = {
    "a billion laughs": (LAUGHS, "aliases"),
    "a list in itself": ("a: &a [*a]", "aliases"),
    "a merged mapping": ("a: &a {b: 1}\nc: {<<: *a}", "aliases"),
    "brackets": ("a: " + "[" * 100_000, "nested deeper than 50"),
    "braces": ("{a: " * 100_000, "nested deeper than 50"),
    "blocks": ("- " * 100_000, "nested deeper than 50"),
    "keys": ("? " * 100_000, "nested deeper than 50"),
}

READERS: dict[str, Callable[[Path], object]] = {
    "settings": load_settings,
    "dear apply": read_apply_file,
    "template": lambda file: load_template(file.stem, file.parent),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_grows_without_bound_is_refused_at_once_by_every_reader(
    text: str, said: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text)
    since_s = time.monotonic()
    with pytest.raises(Exception, match=said) as refusal:
        read(file)
    assert time.monotonic() - since_s < 1
    assert str(refusal.value).startswith(f"{file} is not valid YAML: ")


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_the_reason_is_a_yaml_error(text: str, said: str) -> None:
    with pytest.raises(yaml.YAMLError, match=said):
        load_yaml(text)


def test_everything_else_is_read_as_it_always_was() -> None:
    text = "a: {b: [1, 2.5, true, null, text]}\nc: &anchor |\n  lines\n"
    assert load_yaml(text) == yaml.safe_load(text)
    deep = "[" * 50 + "]" * 50
    assert load_yaml(deep) == yaml.safe_load(deep)
