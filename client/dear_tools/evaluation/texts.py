"""Texts of queries and documents by their ids: TSV as MS MARCO has it, JSONL as BEIR and Pyserini have it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from dear_tools.evaluation.lines import numbered_lines
from dear_tools.evaluation.topics import titled
from dear_tools.exits import ToolError

_IDS = ("_id", "id")
_TEXTS = ("text", "contents")


def load_texts(path: Path, wanted: Collection[str]) -> dict[str, str]:
    """Texts of the ids that are wanted, as far as the file has them; the rest of it is not kept.

    Args:
        path: ``.jsonl`` with ``_id`` or ``id``, ``text`` or ``contents`` and perhaps ``title`` a line; any
            other name is TSV, an id and its text.

    Raises:
        ToolError: the file cannot be read, a line has no id or text, or one that is wanted is there twice.
    """
    read = _from_jsonl if path.suffix == ".jsonl" else _from_tsv
    found: dict[str, str] = {}
    for number, id, text in read(path):
        if id in wanted:
            if id in found:
                raise ToolError(f"{path}:{number}: {id} is there twice")
            found[id] = text
    return found


def _from_tsv(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(path):
        id, tab, text = line.partition("\t")
        if not tab or not id.strip():
            raise ToolError(f"{path}:{number}: an id, a tab and a text are needed")
        yield number, id.strip(), text


def _from_jsonl(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(path):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ToolError(f"{path}:{number}: no JSON: {error}") from None
        id, text = _first(value, _IDS, (str, int)), _first(value, _TEXTS, (str,))
        if id is None or text is None:
            raise ToolError(
                f'{path}:{number}: an object with "_id" (or "id") and "text" (or "contents") is needed'
            )
        title = value.get("title")
        yield number, str(id), titled(title if isinstance(title, str) else None, text)


def _first(value: object, names: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    """The first field of these names that is of these types; None where the value has none."""
    fields = value if isinstance(value, dict) else {}
    return next((fields[name] for name in names if isinstance(fields.get(name), kinds)), None)
