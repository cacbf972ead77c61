"""Collections of ir_datasets, played by a module of that name: the real one needs a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from dear_tools.evaluation.sources import load_irds
from dear_tools.exits import ToolError


class Query(NamedTuple):
    query_id: str
    text: str

    def default_text(self) -> str:
        return self.text


class Document(NamedTuple):
    doc_id: str
    title: str
    text: str

    def default_text(self) -> str:
        return f"{self.title} {self.text}"


class Article(NamedTuple):
    """Of a collection that has no field ``text``."""

    doc_id: str
    headline: str
    paragraphs: str

    def default_text(self) -> str:
        return f"{self.headline} {self.paragraphs}"


class Judged(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Scored(NamedTuple):
    query_id: str
    doc_id: str
    score: float


class Dataset:
    """Two queries with three documents, judged, scored unless told otherwise."""

    def __init__(self, scored: bool = True, judged: bool = True, fault: Exception | None = None) -> None:
        self.scored, self.judged, self.fault = scored, judged, fault

    def has_qrels(self) -> bool:
        return self.judged

    def has_scoreddocs(self) -> bool:
        return self.scored

    def qrels_iter(self) -> Iterator[Judged]:
        if self.fault is not None:
            raise self.fault
        yield Judged("q1", "d1", 2)

    def queries_iter(self) -> Iterator[Query]:
        yield from (Query("q1", "one"), Query("q2", "two"))

    def scoreddocs_iter(self) -> Iterator[Scored]:
        yield from (Scored("q1", "d1", 1.0), Scored("q1", "d2", 3.0), Scored("q1", "d3", 2.0))

    def docs_store(self) -> Any:
        return self

    def get_many(self, ids: set[str]) -> dict[str, Document | Article]:
        every: tuple[Document | Article, ...] = (
            Document("d1", "", "first"),
            Document("d2", "T", "second"),
            Article("d3", "H", "third"),
        )
        return {one.doc_id: one for one in every if one.doc_id in ids}


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Dataset]:
    """What the module of that name knows."""
    known: dict[str, Dataset] = {}
    module = ModuleType("ir_datasets")
    module.load = known.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    return known


def test_scored_documents_are_the_candidates(datasets: dict[str, Dataset]) -> None:
    datasets["a/b"] = Dataset()
    topics, qrels, warnings = load_irds("a/b", None, 100)
    assert [(topic.id, topic.query, topic.order) for topic in topics] == [("q1", "one", ("d2", "d3", "d1"))]
    assert [one.text for one in topics[0].candidates] == ["Title: T Content: second", "H third", "first"]
    assert qrels == {"q1": {"d1": 2}}
    assert warnings == ()


def test_a_run_may_give_them_instead(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    datasets["a/b"] = Dataset(scored=False)
    run = tmp_path / "r.trec"
    run.write_text("q2 Q0 d1 1 2 t\nq2 Q0 d2 2 1 t\n")
    topics, _, _ = load_irds("a/b", run, 1)
    assert [(topic.id, topic.order) for topic in topics] == [("q2", ("d1",))]


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (None, "ir_datasets knows no dataset 'a/b'"),
        (Dataset(judged=False), "a/b has no judgements in ir_datasets"),
        (Dataset(scored=False), "a/b has no candidates in ir_datasets; give a TREC run with --run"),
        (
            Dataset(fault=RuntimeError("All download sources failed", ["many", "words"])),
            "ir_datasets cannot read a/b: All download sources failed",
        ),
        (Dataset(fault=OSError()), "ir_datasets cannot read a/b: OSError"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    datasets: dict[str, Dataset], dataset: Dataset | None, sentence: str
) -> None:
    if dataset is not None:
        datasets["a/b"] = dataset
    with pytest.raises(ToolError) as error:
        load_irds("a/b", None, 100)
    assert str(error.value) == sentence


def test_without_the_package_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(ToolError, match=r"^--irds needs ir_datasets: pip install ir_datasets$"):
        load_irds("a/b", None, 100)
