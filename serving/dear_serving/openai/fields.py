"""Types of fields that are refused, ignored, or bounded beyond what pydantic says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

MOST_COMPLETIONS = 16
"""Completions that one request may ask for: prompts times ``n``."""
MOST_LOG_PROBS = 20
MOST_SCHEMA_BYTES = 16_384
MOST_TOOLS = 64
MOST_GRAMMAR_CHARS = 16_384
_MOST_SCHEMA_DEPTH = 12
_MOST_SCHEMA_PARTS = 512
_MOST_REPETITIONS = 256
_MOST_CHOICES = 256
_WORDS = 32
_WORD_CHARS = 128

# Each is a regular expression, or makes the grammar as large as its number.
_REGEXES = ("pattern", "patternProperties", "format")
_REPETITIONS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def _refuse(value: Any) -> None:
    # Clients send fields that they do not use with a value that means so.
    if value not in (None, False, 0, "", [], {}):
        raise ValueError("this server does not support it")


Refused = SkipJsonSchema[Annotated[Any, BeforeValidator(_refuse)]]
"""A field that may only hold a value that asks for nothing; the engine never sees it."""

Ignored = SkipJsonSchema[Annotated[Any, BeforeValidator(lambda value: None)]]
"""A field that may hold anything; the engine never sees it."""

Penalty = Annotated[float, Field(ge=-2, le=2)]
Probability = Annotated[float, Field(gt=0, le=1)]
Word = Annotated[str, Field(min_length=1, max_length=_WORD_CHARS)]
Words = Annotated[list[Word], Field(max_length=_WORDS)]
Grammar = Annotated[str, Field(min_length=1, max_length=MOST_GRAMMAR_CHARS)]
GrammarKind = Literal["regex", "grammar", "structural_tag"]
Stop = Annotated[str, Field(min_length=1, max_length=1024)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(max_length=1024)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
LogProbs = Annotated[int, Field(ge=0, le=MOST_LOG_PROBS)]


def _bounded_schema(schema: dict[str, Any]) -> dict[str, Any]:
    for part in _parts_of(schema):
        if isinstance(part, dict):
            _check_keywords(part)
    return _bounded(schema)


def _check_keywords(part: dict[str, Any]) -> None:
    names_properties = all(isinstance(value, dict) for value in part.values())
    for name in _REGEXES:
        if name in part and not names_properties:
            raise ValueError(f"{name}: this server does not support it")
    for name in _REPETITIONS:
        most = part.get(name)
        if isinstance(most, int | float) and not 0 <= most <= _MOST_REPETITIONS:
            raise ValueError(f"{name}: from 0 to {_MOST_REPETITIONS}")


def _parts_of(value: dict[str, Any]) -> Iterator[dict[str, Any] | list[Any]]:
    """All objects and lists in it.

    Raises:
        ValueError: they are too many, too large or too deep.
    """
    left: list[tuple[int, dict[str, Any] | list[Any]]] = [(1, value)]
    count = 0
    while left:
        depth, part = left.pop()
        count += 1 + len(part)
        if count > _MOST_SCHEMA_PARTS:
            raise ValueError(f"over the limit of {_MOST_SCHEMA_PARTS} values")
        if depth > _MOST_SCHEMA_DEPTH:
            raise ValueError(f"over the limit of {_MOST_SCHEMA_DEPTH} levels")
        yield part
        inner = part.values() if isinstance(part, dict) else part
        left += ((depth + 1, one) for one in inner if isinstance(one, dict | list))


def _flat_object(value: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(inner, dict | list) for inner in value.values()):
        raise ValueError("only texts, numbers, booleans and null")
    return _bounded(value)


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value)) > MOST_SCHEMA_BYTES:
        raise ValueError(f"over the limit of {MOST_SCHEMA_BYTES} bytes")
    return value


Schema = Annotated[dict[str, Any], AfterValidator(_bounded_schema)]
"""A JSON schema that a grammar is made of quickly: small, flat, without regular expressions."""

FlatObject = Annotated[dict[str, Any], AfterValidator(_flat_object)]
"""A small object without objects or lists in it."""

Choices = Annotated[list[Word], Field(min_length=1, max_length=_MOST_CHOICES)]
