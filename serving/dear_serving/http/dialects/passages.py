"""The text of a document: what of it the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from dear_serving.errors import InvalidRequest, PayloadTooLarge
from dear_serving.http.dialects.yaml_text import to_yaml

_MOST_RANK_FIELDS, _FIELD_CHARS = 64, 256

Documents = Annotated[
    list[str | dict[str, Any]],
    Field(
        description="Texts, or objects: one with `text` alone is that text, any other is read as YAML.",
        json_schema_extra={"minItems": 1},
    ),
]
RankFields = Annotated[
    list[Annotated[str, Field(max_length=_FIELD_CHARS)]],
    Field(max_length=_MOST_RANK_FIELDS),
]


def each_once(fields: list[str] | None) -> list[str] | None:
    """The rank_fields; a ValueError if one is named twice."""
    if fields and len(set(fields)) < len(fields):
        raise ValueError("a field is named twice")
    return fields


def texts_of(
    documents: Sequence[str | dict[str, Any]],
    max_chars: int,
    rank_fields: Sequence[str] | None = None,
    name: str = "documents",
) -> list[str]:
    """What the model reads of each document: a text as it is, an object's ``text`` if it has nothing else,
    any other object as YAML. ``rank_fields`` pick: one field's text as it is, several as ``name: value``
    lines.

    Args:
        max_chars: most characters of an object's fields.
        name: the body's field, for errors.

    Raises:
        InvalidRequest: an object lacks one of ``rank_fields``, or it cannot be YAML.
        PayloadTooLarge: over ``max_chars``.
    """
    return [
        one if isinstance(one, str) else _text_of(one, rank_fields, f"{name}.{position}", max_chars)
        for position, one in enumerate(documents)
    ]


def with_metadata(texts: list[str], metadata: Sequence[str] | None) -> list[str]:
    """Each text, and after it what is known of it.

    Raises:
        InvalidRequest: another number of metadata than of texts.
    """
    if metadata is None:
        return texts
    if len(metadata) != len(texts):
        message = f"metadata: one text a document is needed, {len(texts)}, not {len(metadata)}"
        raise InvalidRequest(message, param="metadata")
    return [f"{text}\nMetadata: {one}" if one else text for text, one in zip(texts, metadata, strict=True)]


def _text_of(document: dict[str, Any], fields: Sequence[str] | None, where: str, max_chars: int) -> str:
    if not fields:
        if len(document) == 1 and isinstance(text := document.get("text"), str):
            return text
        return to_yaml(document, where, max_chars)
    picked = {name: document[name] for name in fields if document.get(name) is not None}
    if missing := next((name for name in fields if name not in picked), None):
        raise InvalidRequest(f"{where}.{missing}: a value is needed", param=f"{where}.{missing}")
    values = list(picked.values())
    if not all(isinstance(value, str) for value in values):
        return to_yaml(picked, where, max_chars)
    if len(values) == 1:
        return str(values[0])
    # Checked before they are joined: the joined text may be much longer than the document.
    chars = sum(map(len, fields)) + sum(map(len, values)) + 3 * len(fields) - 1
    if chars > max_chars:
        raise PayloadTooLarge(
            f"{where}: its rank_fields have {chars} characters, over the limit of {max_chars}", param=where
        )
    return "\n".join(f"{name}: {value}" for name, value in picked.items())
