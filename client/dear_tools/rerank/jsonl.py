"""Lists from JSONL, results to JSONL."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from dear_client import Client, Ranking
from dear_tools.exits import ToolError
from dear_tools.files import written_whole
from dear_tools.rerank.many import Asked, rank_all

STDIN = "-"


def rank_jsonl(
    client: Client, source: str, output: Path | None, options: Mapping[str, object], concurrency: int
) -> int:
    """Rank every list of a JSONL file; how many failed.

    Raises:
        ToolError: a file cannot be read or written, or has no lists.
        ClientError: as many.rank_all.
    """
    done = failed = 0
    with _written(output) as write:
        for asked, ranked in rank_all(client, _lists(source, options), concurrency):
            result = result_of(ranked) if isinstance(ranked, Ranking) else {"error": ranked}
            write(asked.kept | result)
            done += 1
            failed += isinstance(ranked, str)
        if not done:
            raise ToolError(f"{_name(source)} has no lists")
    return failed


def result_of(ranking: Ranking) -> dict[str, Any]:
    """A ranking for programs: documents as they were given, best first."""
    places = {"index", "relevance_score", "document"}
    return {
        "model": ranking.model,
        "results": [result.model_dump(include=places) for result in ranking.results],
        "usage": ranking.usage.model_dump(exclude_unset=True),
        "warnings": list(ranking.warnings),
        "request_id": ranking.request_id,
    }


def texts_of(source: str) -> list[str]:
    """The lines of a file, or of stdin, that are not blank.

    Raises:
        ToolError: it cannot be read, or is not UTF-8.
    """
    found = []
    for number, line in enumerate(_lines(source), start=1):
        try:
            found.append(line.decode().strip())
        except UnicodeDecodeError:
            raise ToolError(f"{_name(source)}, line {number}: this is not UTF-8 text") from None
    return [text for text in found if text]


def _lists(source: str, options: Mapping[str, object]) -> Iterator[Asked]:
    """The lists of the lines; ``options`` hold for those that say nothing else."""
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        where, kept = f"{_name(source)}, line {number}", {"line": number}
        try:
            fields = json.loads(line.decode())
        except UnicodeDecodeError:
            yield Asked(where, kept=kept, wrong="this is not UTF-8 text")
        except json.JSONDecodeError as error:
            said = f"{error.msg[:1].lower()}{error.msg[1:]} at character {error.pos + 1}"
            yield Asked(where, kept=kept, wrong=f"this is not valid JSON: {said}")
        else:
            if isinstance(fields, dict):
                kept |= {name: fields[name] for name in ("id", "query") if name in fields}
                fields.pop("id", None)
                own_options = not fields.keys() <= {"query", "documents"}
                yield Asked(where, {**options, **fields}, kept, own_options=own_options)
            else:
                yield Asked(where, kept=kept, wrong="an object with query and documents is needed")


def _lines(source: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin.

    Raises:
        ToolError: it cannot be read.
    """
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if source == STDIN else Path(source).open("rb") as file:
            yield from file
    except OSError as error:
        raise ToolError(f"cannot read {source}: {(error.strerror or str(error)).lower()}") from None


@contextlib.contextmanager
def _written(output: Path | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """What takes results: stdout, or a file that takes its name when all is well."""
    if output is None:
        yield lambda result: typer.echo(json.dumps(result, ensure_ascii=False))
        return
    with written_whole(output) as file:
        yield lambda result: file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")


def _name(source: str) -> str:
    return "stdin" if source == STDIN else source
