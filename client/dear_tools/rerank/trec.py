"""A TREC run in, its reranking as a TREC run out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import typer

from dear_client import Client, Ranking
from dear_tools.evaluation.collection import Topic
from dear_tools.evaluation.sources import load_trec
from dear_tools.evaluation.trec import run_text, write_run
from dear_tools.rerank.many import Asked, rank_all

_TAG = "dear"


def rank_trec(
    client: Client,
    run: Path,
    queries: Path,
    corpus: Path,
    depth: int,
    output: Path | None,
    options: Mapping[str, object],
    concurrency: int,
) -> int:
    """Rerank the first ``depth`` documents of every query of a run; how many queries failed.

    A query that failed is not in the new run. With ``top_n`` it has that many documents a query.

    Raises:
        ToolError: a file cannot be read or written, is malformed, or lacks a text.
        ClientError: as many.rank_all.
    """
    topics, warnings = load_trec(run, queries, corpus, depth)
    for warning in warnings:
        typer.echo(warning, err=True)
    orders: dict[str, Sequence[str]] = {}
    failed = 0
    for asked, ranked in rank_all(client, _lists(run.name, topics, options), concurrency):
        if isinstance(ranked, Ranking):
            orders[asked.kept["query"]] = [document["id"] for document in ranked.documents]
        else:
            failed += 1
    if output is None:
        typer.echo(run_text(orders, _TAG), nl=False)
    else:
        write_run(output, orders, _TAG)
    return failed


def _lists(name: str, topics: Sequence[Topic], options: Mapping[str, object]) -> Iterator[Asked]:
    for topic in topics:
        documents = [{"id": one.id, "text": one.text} for one in topic.candidates]
        request = {**options, "query": topic.query, "documents": documents}
        yield Asked(f"{name}, query {topic.id}", request, {"query": topic.id})
