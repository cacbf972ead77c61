"""Known figures of real collections, which lie beside the repository and not in it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dear_tools.evaluation.presets import presets
from tests.tools.evaluation.conftest import dear_eval


def evaluated(data: Path, out: Path, preset: str, ranker: str, *more: object) -> dict[str, Any]:
    arguments = ("--preset", preset, "--data", data, "--ranker", ranker, "--out", out, "--json", *more)
    ended = dear_eval(*arguments)
    assert (ended.code, ended.said) == (0, [])
    value: dict[str, Any] = json.loads(ended.out)
    return value


def means(report: dict[str, Any]) -> dict[str, float]:
    """This run's means, times 100, as papers print them."""
    return {row["measure"]: round(100 * row["comparison"]["after"], 2) for row in report["rows"]}


def discounted(grades: Sequence[int]) -> float:
    """The DCG of a list of grades, best rank first, as trec_eval has it."""
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def ceilings(data: Path, preset: str, cutoff: int) -> list[float]:
    """The best nDCG that the candidates of each judged query allow, from the files by hand."""
    source = presets()[preset].source(data)
    assert source is not None
    assert source.candidates is not None
    assert source.qrels is not None
    qrels: dict[str, dict[str, int]] = {}
    for line in source.qrels.read_text().splitlines():
        query, _, document, grade = line.split()
        qrels.setdefault(query, {})[document] = int(grade)
    found = []
    for entry in json.loads(source.candidates.read_text()):
        judged = qrels[str(entry["hits"][0]["qid"])]
        reachable = sorted((judged.get(hit["docid"], 0) for hit in entry["hits"]), reverse=True)
        ideal = sorted(judged.values(), reverse=True)
        found.append(discounted(reachable[:cutoff]) / discounted(ideal[:cutoff]))
    return found


def test_bm25_on_dl19_is_what_is_published(shared_data: Path, tmp_path: Path) -> None:
    report = evaluated(shared_data, tmp_path / "a", "dl19", "first-stage")
    assert means(report) == {
        "nDCG@1": 54.26,
        "nDCG@5": 52.78,
        "nDCG@10": 50.58,
        "AP(rel=2)": 24.76,
        "R(rel=2)@100": 49.10,
    }
    assert report["queries"] == 43
    assert report["published"][0]["published"]["value"] == round(report["published"][0]["ours"], 2) == 50.58


def test_recall_of_bm25_on_dl19_with_every_grade(shared_data: Path, tmp_path: Path) -> None:
    report = evaluated(shared_data, tmp_path / "a", "dl19", "first-stage", "--relevant-from", 1)
    assert means(report)["R@100"] == 45.31


def test_google_on_noveleval_is_what_was_measured(shared_data: Path, tmp_path: Path) -> None:
    report = evaluated(shared_data, tmp_path / "a", "noveleval", "first-stage")
    found = means(report)
    assert [found[name] for name in ("nDCG@1", "nDCG@5", "nDCG@10")] == [64.29, 58.24, 65.03]
    assert found["R@20"] == 100.0
    assert report["queries"] == 21
    assert report["orders"]["identical_rate"] == 1.0


def test_bm25_on_noveleval_is_what_was_measured(shared_data: Path, tmp_path: Path) -> None:
    run = shared_data / "noveleval" / "run_bm25_okapi_perquery.trec"
    report = evaluated(shared_data, tmp_path / "a", "noveleval", str(run))
    found = means(report)
    assert [found[name] for name in ("nDCG@1", "nDCG@5", "nDCG@10")] == [33.33, 45.96, 55.94]


@pytest.mark.parametrize(("preset", "ceiling"), [("dl19", 89.22), ("noveleval", 100.0)])
def test_the_oracle_reaches_the_ceiling_and_no_more(
    shared_data: Path, tmp_path: Path, preset: str, ceiling: float
) -> None:
    report = evaluated(shared_data, tmp_path / "a", preset, "oracle")
    for cutoff in (1, 5, 10):
        by_hand = ceilings(shared_data, preset, cutoff)
        values = [pair[f"nDCG@{cutoff}"][1] for pair in report["per_query"].values()]
        assert sorted(values) == pytest.approx(sorted(by_hand), abs=1e-9)
    assert means(report)["nDCG@10"] == ceiling
    assert all(row["comparison"]["worse"] == 0 for row in report["rows"])
    recall = report["rows"][-1]["comparison"]
    assert recall["difference"] == 0.0
    assert report["orders"]["valid_rate"] == 1.0


def test_the_run_that_is_written_is_the_run_that_was_measured(shared_data: Path, tmp_path: Path) -> None:
    report = evaluated(shared_data, tmp_path / "a", "dl19", "oracle")
    again = evaluated(shared_data, tmp_path / "b", "dl19", str(tmp_path / "a" / "run.trec"))
    assert means(again) == means(report)


def test_no_text_of_a_collection_is_written(shared_data: Path, tmp_path: Path) -> None:
    evaluated(shared_data, tmp_path, "dl19", "oracle")
    entry = json.loads((shared_data / "dl19" / "bm25_top100.json").read_text())[0]
    texts = [entry["query"], *(hit["content"] for hit in entry["hits"])]
    for path in tmp_path.iterdir():
        content = path.read_text()
        assert not any(text in content or str(shared_data) in content for text in texts)
