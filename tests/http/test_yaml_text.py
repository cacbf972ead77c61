"""Objects as YAML: what PyYAML reads from it is what went in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.errors import InvalidRequest, PayloadTooLarge
from dear_serving.http.dialects.yaml_text import to_yaml

ODD = [
    "&a",
    "*a",
    "!!python/name:os",
    "yes",
    "null",
    "~",
    "1.5",
    "0x1F",
    "2024-01-01",
    "- x",
    "a: b",
    "a #b",
    "#",
]
ODD += [
    "'",
    '"',
    "\\",
    "[x]",
    "{x}",
    "|",
    ">",
    "%TAG",
    "@",
    "`",
    "a\tb",
    "\ttab",
    "a\nb",
    " a\n b ",
    "a\n\nb\n",
    "a\r\nb",
]
ODD += [
    "---",
    "...",
    "<<",
    "=",
    "?",
    "\x00",
    "\x7f\x85\u2028\ufeff",
    "🙂 東京",
    "",
    " ",
    "key:",
    "a:\nb",
    "\n",
]
words = st.sampled_from(ODD) | st.text(max_size=30).filter(lambda text: text.isprintable())
scalars = st.none() | st.booleans() | st.integers() | words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(fields=st.dictionaries(words, values, min_size=1, max_size=8))
def test_what_pyyaml_reads_is_what_went_in_in_the_same_order(fields: dict[str, Any]) -> None:
    try:
        text = to_yaml(fields, "documents.0", 100_000)
    except InvalidRequest as error:
        assert "levels" in error.message
        return
    found = yaml.safe_load(text)
    assert found == fields
    assert list(found) == list(fields)


def test_a_text_stays_readable() -> None:
    fields = {
        "title": "Residents' permits: prices & fines",
        "body": "First line [3]\n  and a second: with a colon",
        "price": 12.5,
        "tags": ["town", "parking 🙂"],
        "by": {"name": "Ann", "at": None},
        "none": {},
    }
    assert to_yaml(fields, "documents.0", 1000) == (
        'title: "Residents\' permits: prices & fines"\n'
        "body: |-\n  First line [3]\n    and a second: with a colon\n"
        "price: 12.5\ntags:\n  - town\n  - parking 🙂\nby:\n  name: Ann\n  at: null\nnone: {}"
    )


def test_the_same_value_twice_is_written_twice() -> None:
    shared = ["a", "b"]
    text = to_yaml({"x": shared, "y": shared}, "documents.0", 1000)
    assert "&" not in text
    assert "*" not in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "documents.3: a text or fields are needed"),
        (dict.fromkeys(map(str, range(1000)), "x"), "at most 8 levels and 256 values"),
        ({"a": [[[[[[[[1]]]]]]]]}, "at most 8 levels and 256 values"),
        ({"a": list(range(300))}, "at most 8 levels and 256 values"),
        ({"x" * 257: 1}, "a field's name is over 256 characters"),
    ],
)
def test_what_no_model_could_read_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        to_yaml(fields, "documents.3", 100_000)
    assert message in refused.value.message
    assert refused.value.param == "documents.3"


def test_too_many_characters_are_refused_before_they_are_written() -> None:
    with pytest.raises(PayloadTooLarge, match=r"documents\.3: its fields have 5000001 characters"):
        to_yaml({"a": "\x00" * 5_000_000}, "documents.3", 1_000_000)


def test_numbers_are_json_numbers() -> None:
    assert to_yaml({"a": 1e22, "b": True, "c": -0.5}, "documents.0", 100) == "a: 1e+22\nb: true\nc: -0.5"
    assert math.isclose(float("1e+22"), 1e22)
