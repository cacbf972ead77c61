"""Where candidates and judgements come from: files, a BEIR folder, or ir_datasets."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dear_tools.evaluation.collection import Topic, joined, titled
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.trec import Qrels, Run, load_qrels, read_run
from dear_tools.exits import ToolError
from dear_tools.files import numbered_lines

_IDS = ("_id", "id")
_TEXTS = ("text", "contents")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Topics and judgements before they are joined."""

    name: str
    topics: tuple[Topic, ...]
    qrels: Qrels
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Files or names: one of ``candidates``, ``beir``, ``irds``, or ``run`` with ``queries`` and ``corpus``.

    ``run`` is what ``beir`` needs beside the folder, and what ``irds`` takes in place of its own candidates;
    ``qrels`` stands in place of those that these two bring.
    """

    candidates: Path | None = None
    qrels: Path | None = None
    run: Path | None = None
    queries: Path | None = None
    corpus: Path | None = None
    beir: Path | None = None
    irds: str | None = None

    def problem(self) -> str | None:
        """What is wrong with the combination; None where nothing is."""
        given = [name for name in ("candidates", "beir", "irds") if getattr(self, name) is not None]
        texts = self.queries is not None or self.corpus is not None
        if len(given) > 1:
            return f"--{given[0]} and --{given[1]} cannot go together"
        if not given and self.run is None:
            return "give --candidates, --run, --beir, --irds or --preset"
        if given and texts:
            return f"--queries and --corpus go with --run, not with --{given[0]}"
        if self.candidates is not None and self.run is not None:
            return "--candidates and --run cannot go together; to compare two runs, use --against"
        if self.beir is not None and self.run is None:
            return "--beir needs --run, the first stage's candidates"
        if not given and (self.queries is None or self.corpus is None):
            return "--run needs --queries and --corpus, the texts"
        if self.qrels is None and self.beir is None and self.irds is None:
            return "--qrels is missing"
        return None

    def load(self, depth: int) -> Loaded:
        """Read it all; the texts of the first ``depth`` candidates at least.

        Raises:
            ToolError: one sentence about the file that is wrong.
        """
        judged: Qrels | None = None
        if self.candidates is not None:
            name = self.candidates.stem
            topics, warnings = load_rankgpt(self.candidates)
        elif self.irds is not None:
            name = self.irds.replace("/", "-")
            topics, judged, warnings = load_irds(self.irds, self.run, depth)
        elif self.beir is not None and self.run is not None:
            name = self.beir.resolve().name
            topics, judged, warnings = load_beir(self.beir, self.run, depth)
        elif self.run is not None and self.queries is not None and self.corpus is not None:
            name = self.run.stem
            topics, warnings = load_trec(self.run, self.queries, self.corpus, depth)
        else:
            raise ToolError(self.problem() or "nothing to evaluate")
        if self.qrels is not None:
            judged = load_qrels(self.qrels)
        if judged is None:
            raise ToolError("--qrels is missing")
        return Loaded(name, topics, judged, warnings)


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
        return _read_dataset(dataset, name, run, depth)
    except ToolError:
        raise
    except Exception as error:  # its downloads fail in many ways
        raise ToolError(f"ir_datasets cannot read {name}: {_brief(error)}") from None


def _read_dataset(
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
    texts = {id: titled(getattr(one, "title", None), _dataset_text(one)) for id, one in documents.items()}
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


def _dataset_text(document: Any) -> str:
    """The text beside the title, where there is one; else all that ir_datasets holds to be the text."""
    text = getattr(document, "text", None)
    return str(text if isinstance(text, str) else document.default_text())


def _brief(error: Exception) -> str:
    first = str(error.args[0]) if error.args else type(error).__name__
    return first if len(first) <= 200 else f"{first[:200]}..."


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
