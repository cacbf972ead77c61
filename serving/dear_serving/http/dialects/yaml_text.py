"""Objects as YAML text. PyYAML escapes characters such as emoji and takes ten times as long."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dear_serving.errors import InvalidRequest, PayloadTooLarge

_MOST_VALUES, _MOST_LEVELS, _NAME_CHARS = 256, 8, 256
# What a plain scalar must not have, and a text that is quoted or a block neither.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_NOT_PLAIN = re.compile(r"[\t\n]|:(?=\s|$)|\s#|\s$")
_QUOTE = json.JSONEncoder(ensure_ascii=False).encode
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def to_yaml(fields: Mapping[str, Any], where: str, max_chars: int) -> str:
    """The object in its own order of keys, without anchors, tags or line breaks at its end.

    Args:
        fields: of JSON values.
        where: the object's place in the body, for errors.
        max_chars: most characters of all names and values together.

    Raises:
        InvalidRequest: no field, too many values or levels, or a field with too long a name.
        PayloadTooLarge: over ``max_chars``.
    """
    if not fields:
        raise InvalidRequest(f"{where}: a text or fields are needed", param=where)
    _check(fields, where, max_chars)
    return "\n".join(_lines(fields))


def _check(fields: Mapping[str, Any], where: str, max_chars: int) -> None:
    values = chars = level = 0
    parts: list[Any] = [fields]
    while parts:  # level by level
        level += 1
        inner: list[Any] = []
        for part in parts:
            values += len(part)
            if isinstance(part, dict):
                chars += sum(map(len, part))
                if max(map(len, part), default=0) > _NAME_CHARS:
                    raise InvalidRequest(
                        f"{where}: a field's name is over {_NAME_CHARS} characters", param=where
                    )
            for one in part.values() if isinstance(part, dict) else part:
                if isinstance(one, str):
                    chars += len(one)
                elif isinstance(one, dict | list) and one:
                    inner.append(one)
        if level > _MOST_LEVELS or values > _MOST_VALUES:
            raise InvalidRequest(
                f"{where}: an object has at most {_MOST_LEVELS} levels and {_MOST_VALUES} values", param=where
            )
        parts = inner
    if chars > max_chars:
        raise PayloadTooLarge(
            f"{where}: its fields have {chars} characters, over the limit of {max_chars}", param=where
        )


def _lines(value: Any) -> Iterator[str]:
    """The lines of a mapping or a list that is not empty."""
    entries = (
        ((f"{_scalar(name)}:", one) for name, one in value.items())
        if isinstance(value, Mapping)
        else (("-", one) for one in value)
    )
    for opening, one in entries:
        if isinstance(one, dict | list) and one:
            yield opening
            yield from ("  " + line for line in _lines(one))
        elif isinstance(one, str) and _is_block(one):
            yield f"{opening} |-"
            yield from ("  " + line for line in one.split("\n"))
        else:
            yield f"{opening} {_scalar(one)}"


def _is_block(text: str) -> bool:
    """Whether a text of several lines may stand as it is."""
    return (
        "\n" in text and not text[:1].isspace() and not text.endswith("\n") and not _UNPRINTABLE.search(text)
    )


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = value[:1].isalpha() and value.lower() not in _WORDS and not _NOT_PLAIN.search(value)
    if is_plain and not _UNPRINTABLE.search(value):
        return value
    quoted = _QUOTE(value)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
