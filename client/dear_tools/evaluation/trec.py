"""Candidates from a TREC run, with texts in files of their own; a BEIR folder is one way to keep these."""

from __future__ import annotations

from pathlib import Path

from dear_tools.evaluation.qrels import Qrels, load_qrels
from dear_tools.evaluation.runs import read_run
from dear_tools.evaluation.texts import load_texts
from dear_tools.evaluation.topics import Topic, joined
from dear_tools.exits import ToolError


def load_trec(
    run: Path, queries: Path, corpus: Path, depth: int
) -> tuple[tuple[Topic, ...], tuple[str, ...]]:
    """The run's queries with their first ``depth`` documents, and warnings about the run.

    Raises:
        ToolError: a file cannot be read, is malformed, or lacks a text.
    """
    found = read_run(run)
    orders = {query: order[:depth] for query, order in found.orders.items()}
    wanted = {document for order in orders.values() for document in order}
    texts = load_texts(corpus, wanted)
    return (
        joined(orders, load_texts(queries, orders), texts, (run.name, queries.name, corpus.name)),
        found.warnings,
    )


def load_beir(folder: Path, run: Path, depth: int) -> tuple[tuple[Topic, ...], Qrels, tuple[str, ...]]:
    """As ``load_trec`` with the folder's queries.jsonl and corpus.jsonl; and its qrels/test.tsv.

    Raises:
        ToolError: as ``load_trec``, or the folder is none of BEIR's.
    """
    files = [folder / name for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv")]
    if lost := [file for file in files if not file.is_file()]:
        raise ToolError(f"{folder} is no BEIR folder: it has no {lost[0].relative_to(folder)}")
    queries, corpus, qrels = files
    judged = load_qrels(qrels)
    topics, warnings = load_trec(run, queries, corpus, depth)
    return topics, judged, warnings
