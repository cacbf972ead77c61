"""The command line of ``dear rerank``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dear_client import Client, Ranking, RerankOptions
from dear_tools.exits import PARTLY
from dear_tools.options import JsonOption, KeyOption, UrlOption, with_rerank_options
from dear_tools.rerank.jsonl import STDIN, rank_jsonl, result_of, texts_of

_ONE, _JSONL, _TREC = "One list", "Many lists as JSONL", "A TREC run"
_MANY = "Many lists"


@with_rerank_options()
def rerank(
    query: Annotated[str | None, typer.Argument(help="What is looked for.")] = None,
    passages: Annotated[list[str] | None, typer.Argument(help="Texts to rank.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Passages, a line each; - reads stdin.", rich_help_panel=_ONE)
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            help="A line of JSON each: query, documents, and any option by its name; - reads stdin.",
            rich_help_panel=_JSONL,
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The run to rerank.", rich_help_panel=_TREC)] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Texts of its queries: TSV or JSONL.", rich_help_panel=_TREC)
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Texts of its documents: TSV or JSONL.", rich_help_panel=_TREC)
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="Documents per query that are reranked.", rich_help_panel=_TREC)
    ] = 100,
    output: Annotated[
        Path | None,
        typer.Option(help="File for the results; written whole or not at all.", rich_help_panel=_MANY),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.", rich_help_panel=_MANY)] = 8,
    *,
    options: RerankOptions,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rank passages by how well they answer a query: one list, a file of lists, or a TREC run.

    Results of --jsonl are JSONL, a line for each list in their order: its documents best first, as they were
    given. A list that fails is named on stderr and has an "error" instead; the exit code is then 3.
    """
    _check(query is not None or file is not None, jsonl, run, queries, corpus, output)
    if jsonl is None and run is None:
        if query is None:
            raise typer.BadParameter("a query is needed, or --jsonl, or --run")
        found = _passages(passages or [], file)
        with Client(url, api_key) as client:
            ranking = client.rerank(query, found, **options)
        if as_json:
            typer.echo(json.dumps(result_of(ranking), ensure_ascii=False))
        else:
            _show(ranking)
        return
    with Client(url, api_key) as client:
        if run is not None and queries is not None and corpus is not None:
            from dear_tools.rerank.trec import rank_trec

            failed = rank_trec(client, run, queries, corpus, depth, output, options, concurrency)
        else:
            failed = rank_jsonl(client, jsonl or STDIN, output, options, concurrency)
    if failed:
        raise typer.Exit(PARTLY)


def _check(
    one: bool,
    jsonl: str | None,
    run: Path | None,
    queries: Path | None,
    corpus: Path | None,
    output: Path | None,
) -> None:
    """Refuse what does not go together; ``one`` says whether a single list was given."""
    if sum((one, jsonl is not None, run is not None)) > 1:
        raise typer.BadParameter("one list, --jsonl and --run are three ways to give lists; take one")
    if (run is None) != (queries is None) or (run is None) != (corpus is None):
        raise typer.BadParameter("--run, --queries and --corpus go together")
    if output is not None and jsonl is None and run is None:
        raise typer.BadParameter("goes with --jsonl or --run; one list is printed", param_hint="--output")


def _passages(given: list[str], file: str | None) -> list[str]:
    """Passages of arguments, of a file, or of stdin where something is piped in."""
    if file is None and not given and not sys.stdin.isatty():
        file = STDIN
    if file is not None:
        if given:
            raise typer.BadParameter("passages come as arguments or from --file, not both")
        given = texts_of(file)
    if not given:
        raise typer.BadParameter("there are no passages: give them as arguments, with --file, or on stdin")
    return given


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
