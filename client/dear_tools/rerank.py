"""``dear rerank``: one list from the command line, or a file of them."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dear_client import (
    Client,
    ConfigurationError,
    ConnectionFailed,
    InvalidKey,
    Ranking,
    RerankRequest,
    UnexpectedReply,
)
from dear_tools.exits import PARTLY, ToolError
from dear_tools.files import written_whole
from dear_tools.options import JsonOption, KeyOption, UrlOption

_STDIN = "-"
_HOPELESS = (ConfigurationError, ConnectionFailed, InvalidKey, UnexpectedReply)
"""Errors that, where nothing worked before them, would be those of every other list as well."""

_ONE, _MANY = "One list", "Many lists"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a JSONL file: a request, or what is wrong with it."""

    number: int
    fields: dict[str, Any]
    wrong: str | None = None


def rerank(
    query: Annotated[str | None, typer.Argument(help="What is looked for.")] = None,
    passages: Annotated[list[str] | None, typer.Argument(help="Texts to rank.")] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Passages of one list, a line each; - reads stdin.", rich_help_panel=_ONE),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            help="Lists, a line of JSON each: query, documents, and any option by its name; - reads stdin.",
            rich_help_panel=_MANY,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the lists' results here, whole or not at all.", rich_help_panel=_MANY),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Lists at a time.", rich_help_panel=_MANY)] = 8,
    model: Annotated[str | None, typer.Option(help="An adapter's name, or the base model's.")] = None,
    top_n: Annotated[int | None, typer.Option(min=1, help="How many of the best; else all.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="auto, single, sliding, merge2, joint or tourrank.")
    ] = None,
    scoring: Annotated[str | None, typer.Option(help="permutation, generate or first_token.")] = None,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Reason before ranking.")] = False,
    deadline_s: Annotated[float | None, typer.Option(min=0, help="Seconds that ranking may take.")] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank passages by how well they answer a query.

    Results of --jsonl are JSONL, a line for each list in their order: its documents best first, as they were
    given. A list that failed has an "error" in its place; it is named on stderr, and the exit code is 3.
    """
    options = {
        "model": model,
        "top_n": top_n,
        "strategy": strategy,
        "scoring": scoring,
        "reasoning": reasoning or None,
        "deadline_s": deadline_s,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if jsonl is not None:
        if query is not None or file is not None:
            raise typer.BadParameter("--jsonl brings its own queries and passages")
        with Client(url, api_key) as client:
            failed = _rank_lines(client, jsonl, output, options, concurrency)
        if failed:
            raise typer.Exit(PARTLY)
        return
    if output is not None:
        raise typer.BadParameter("goes with --jsonl; one list is printed", param_hint="--output")
    if query is None:
        raise typer.BadParameter("a query is needed, or --jsonl")
    with Client(url, api_key) as client:
        ranking = client.rerank(query, _passages(passages or [], file), **cast(Any, options))
    if as_json:
        typer.echo(json.dumps(_result(ranking), ensure_ascii=False))
    else:
        _show(ranking)


def _passages(given: list[str], file: str | None) -> list[str]:
    """Passages of arguments, of a file, or of stdin where something is piped in."""
    if file is None and not given and not sys.stdin.isatty():
        file = _STDIN
    if file is not None:
        if given:
            raise typer.BadParameter("passages come as arguments or from --file, not both")
        lines = [_text(line, file, number) for number, line in enumerate(_lines_of(file), start=1)]
        given = [line.strip() for line in lines if line.strip()]
    if not given:
        raise typer.BadParameter("there are no passages: give them as arguments, with --file, or on stdin")
    return given


def _rank_lines(
    client: Client, source: str, output: Path | None, options: dict[str, Any], concurrency: int
) -> int:
    """Rank every list of a JSONL file; how many failed."""
    name = _name(source)
    failed = 0
    begun: deque[_Line] = deque()
    requests = _requests(_lines(source), options, begun)
    done = 0
    with _written(output) as write, _counted() as count:
        for done, ranked in enumerate(client.rerank_iter(requests, concurrency=concurrency), start=1):
            line = begun.popleft()
            found: dict[str, Any] = {"line": line.number}
            found |= {key: line.fields[key] for key in ("id", "query") if key in line.fields}
            if isinstance(ranked, Ranking):
                found |= _result(ranked)
            else:
                failed += 1
                if line.wrong is None and failed == done and isinstance(ranked, _HOPELESS):
                    raise ranked
                found["error"] = line.wrong or ranked.message
                typer.echo(f"{name}, line {line.number}: {found['error']}", err=True)
            write(found)
            count()
        if not done:
            raise ToolError(f"{name} has no lists")
    return failed


def _lines(source: str) -> Iterator[_Line]:
    for number, line in enumerate(_lines_of(source), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line.decode())
        except UnicodeDecodeError:
            yield _Line(number, {}, "this is not UTF-8 text")
        except json.JSONDecodeError as error:
            said = f"{error.msg[:1].lower()}{error.msg[1:]}"
            yield _Line(number, {}, f"this is not valid JSON: {said} at character {error.pos + 1}")
        else:
            is_object = isinstance(fields, dict)
            wrong = None if is_object else "an object with query and documents is needed"
            yield _Line(number, fields if is_object else {}, wrong)


def _requests(
    lines: Iterable[_Line], options: dict[str, Any], begun: deque[_Line]
) -> Iterator[RerankRequest]:
    """The lines as requests, noted in ``begun``; one that is wrong becomes a request the client refuses."""
    for line in lines:
        begun.append(line)
        fields = {key: value for key, value in line.fields.items() if key != "id"}
        yield cast(RerankRequest, options | fields if line.wrong is None else {})


def _text(line: bytes, source: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ToolError(f"{_name(source)}, line {number}: this is not UTF-8 text") from None


def _name(source: str) -> str:
    return "stdin" if source == _STDIN else source


def _result(ranking: Ranking) -> dict[str, Any]:
    """A ranking for programs: documents as they were given, best first."""
    return {
        "model": ranking.model,
        "results": [
            result.model_dump(include={"index", "relevance_score", "document"}) for result in ranking.results
        ],
        "usage": ranking.usage.model_dump(exclude_unset=True),
        "warnings": list(ranking.warnings),
        "request_id": ranking.request_id,
    }


def _show(ranking: Ranking) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("passage", overflow="fold")
    for rank, result in enumerate(ranking.results, start=1):
        table.add_row(str(rank), f"{result.relevance_score:.3f}", result.text.replace("[", "\\["))
    Console().print(table)
    for warning in ranking.warnings:
        typer.echo(warning, err=True)


def _lines_of(source: str) -> Iterator[bytes]:
    """The lines of a file, or of stdin.

    Raises:
        ToolError: it cannot be read.
    """
    try:
        with (
            contextlib.nullcontext(sys.stdin.buffer) if source == _STDIN else Path(source).open("rb") as file
        ):
            yield from file
    except OSError as error:
        raise ToolError(f"cannot read {source}: {(error.strerror or str(error)).lower()}") from None


@contextlib.contextmanager
def _written(output: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What takes results: stdout, or a file that takes its name when all is well."""
    if output is None:
        yield lambda result: typer.echo(json.dumps(result, ensure_ascii=False))
        return
    with written_whole(output) as file:
        yield lambda result: _write(file, result)


def _write(file: BinaryIO, result: dict[str, Any]) -> None:
    file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")


@contextlib.contextmanager
def _counted() -> Iterator[Any]:
    """Something to call for each list that is done, shown on a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("lists"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda: progress.advance(task)
