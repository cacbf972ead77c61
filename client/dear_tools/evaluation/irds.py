"""Candidates and judgements of ir_datasets, by their names there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dear_tools.evaluation.qrels import Qrels
from dear_tools.evaluation.runs import Run, read_run
from dear_tools.evaluation.topics import Topic, joined, titled
from dear_tools.exits import ToolError


def load_irds(name: str, run: Path | None, depth: int) -> tuple[tuple[Topic, ...], Qrels, tuple[str, ...]]:
    """Topics and judgements of a dataset such as ``msmarco-passage/trec-dl-2019/judged``, and warnings.

    Args:
        run: the candidates, a TREC run; else the dataset's own scored documents.

    Raises:
        ToolError: ir_datasets is not there, does not know the name, cannot fetch it, or it lacks a part.
    """
    try:
        import ir_datasets
    except ModuleNotFoundError:
        raise ToolError("--irds needs ir_datasets: pip install ir_datasets") from None
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        raise ToolError(f"ir_datasets knows no dataset {name!r}") from None
    if not dataset.has_qrels():
        raise ToolError(f"{name} has no judgements in ir_datasets")
    if run is None and not dataset.has_scoreddocs():
        raise ToolError(f"{name} has no candidates in ir_datasets; give a TREC run with --run")
    try:
        return _load(dataset, name, run, depth)
    except ToolError:
        raise
    except Exception as error:  # its downloads fail in many ways
        raise ToolError(f"ir_datasets cannot read {name}: {_brief(error)}") from None


def _load(
    dataset: Any, name: str, run: Path | None, depth: int
) -> tuple[tuple[Topic, ...], Qrels, tuple[str, ...]]:
    qrels: Qrels = {}
    for judged in dataset.qrels_iter():
        qrels.setdefault(judged.query_id, {})[judged.doc_id] = int(judged.relevance)
    found = _scored(dataset) if run is None else read_run(run)
    orders = {query: order[:depth] for query, order in found.orders.items()}
    wanted = {document for order in orders.values() for document in order}
    queries = {one.query_id: one.default_text() for one in dataset.queries_iter()}
    documents = dataset.docs_store().get_many(wanted)
    texts = {id: titled(getattr(one, "title", None), _body(one)) for id, one in documents.items()}
    origin = name if run is None else run.name
    return joined(orders, queries, texts, (origin, name, name)), qrels, found.warnings


def _scored(dataset: Any) -> Run:
    """The dataset's scored documents, best first; equal scores as the dataset has them."""
    scores: dict[str, list[tuple[float, str]]] = {}
    for one in dataset.scoreddocs_iter():
        scores.setdefault(one.query_id, []).append((one.score, one.doc_id))
    return Run(
        {
            query: tuple(document for _, document in sorted(found, key=lambda pair: -pair[0]))
            for query, found in scores.items()
        }
    )


def _body(document: Any) -> str:
    """The text beside the title, where there is one; else all that ir_datasets holds to be the text."""
    text = getattr(document, "text", None)
    return str(text if isinstance(text, str) else document.default_text())


def _brief(error: Exception) -> str:
    first = str(error.args[0]) if error.args else type(error).__name__
    return first if len(first) <= 200 else f"{first[:200]}..."
