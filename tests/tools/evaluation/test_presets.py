"""Presets: complete, sourced, and with every file that is missing named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dear_tools.evaluation.measures import default_measures, parse_measures
from dear_tools.evaluation.presets import CARD, presets
from tests.tools.evaluation.conftest import EXAMPLE, Serving, dear_eval

NAMES = {"dl19", "dl20", "dl19-dear", "dl20-dear", "noveleval", "covid", "nfcorpus", "touche", "dbpedia"}
NAMES |= {"scifact", "signal", "news", "robust04"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The example under names that two presets know."""
    folder = tmp_path / "data"
    (folder / "noveleval").mkdir(parents=True)
    shutil.copy(EXAMPLE / "candidates.json", folder / "retrieve_results_dl19_top100.json")
    shutil.copy(EXAMPLE / "qrels.txt", folder / "qrels.dl19-passage.txt")
    shutil.copy(EXAMPLE / "candidates.json", folder / "noveleval" / "data.json")
    shutil.copy(EXAMPLE / "qrels.txt", folder / "noveleval" / "qrels.txt")
    return folder


def test_the_collections_of_rankgpt_and_dear_are_there() -> None:
    assert set(presets()) == NAMES
    assert CARD not in presets()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_published_figure_is_measured_and_says_whether_it_is_comparable(name: str) -> None:
    preset = presets()[name]
    measured = {str(one) for one in parse_measures(default_measures(preset.depth), preset.relevant_from)}
    for published in preset.published:
        assert set(published.measures) <= measured
        assert published.source
        assert published.why
        assert published.value > 1
    assert "github.com/" in preset.published_in


def test_the_cards_table_is_there() -> None:
    on_card = {
        (name, published.system, published.value)
        for name, preset in presets().items()
        for published in preset.published
        if "card" in published.source
    }
    assert {
        ("dl19", "DeAR-8B listwise LoRA", 77.6),
        ("dl19", "DeAR-8B listwise full", 77.9),
        ("dl19", "RankGPT, GPT-4", 75.6),
        ("dl20", "DeAR-8B listwise LoRA", 75.3),
        ("dl20", "DeAR-8B listwise full", 75.6),
        ("dl20", "RankGPT, GPT-4", 70.6),
        ("noveleval", "DeAR-8B listwise LoRA", 90.6),
        ("noveleval", "RankGPT, GPT-4", 87.9),
    } <= on_card


def test_a_preset_brings_files_settings_and_figures(server: Serving, data: Path, tmp_path: Path) -> None:
    ended = dear_eval("--preset", "dl19", "--data", data, "--url", server.url, "--out", tmp_path / "out")
    assert (ended.code, ended.said) == (0, [])
    assert server.asked[0]["dear"] == {"strategy": "sliding", "window_size": 20, "step": 10}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["name"], report["first_stage"]) == ("dl19", "BM25")
    assert [row["measure"] for row in report["rows"]][3:] == ["AP(rel=2)", "R(rel=2)@5"]
    assert report["published"][0]["published"]["value"] == 50.58
    assert report["published"][0]["ours"] == pytest.approx(69.79, abs=0.01)
    assert "RankVicuna" in ended.out


def test_the_command_line_wins_over_the_preset(server: Serving, data: Path, tmp_path: Path) -> None:
    options = ["--strategy", "merge2", "--depth", 3, "--relevant-from", 1]
    ended = dear_eval(
        "--preset", "dl19", "--data", data, "--url", server.url, "--out", tmp_path / "o", *options
    )
    assert server.asked[0]["dear"]["strategy"] == "merge2"
    assert len(server.asked[0]["documents"]) == 3
    assert "R@3" in ended.out


def test_card_runs_what_is_there_and_names_what_is_not(data: Path, tmp_path: Path) -> None:
    ended = dear_eval("--preset", "card", "--data", data, "--ranker", "oracle", "--out", tmp_path / "out")
    assert ended.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dl19", "noveleval"]
    left_out = [line for line in ended.said if "is left out" in line]
    assert len(left_out) == len(NAMES) - 2
    missing = "no retrieve_results_dl20.json and no qrels.dl20-passage.txt"
    assert f"dear: preset dl20 is left out: {data} has {missing}" in left_out
    assert f"dear: preset dl19-dear is left out: {data} has no ranked_dl19.json" in left_out
    where = [line for line in ended.said if line.startswith("dear: where such files are published: ")]
    assert len(where) == 2
    assert "github.com/castorini/rank_llm," in where[0]
    assert "github.com/sunnweiwei/RankGPT" in where[0]
    assert "collection   measure   first stage   this run" in ended.out


def test_card_as_json_is_a_list(data: Path, tmp_path: Path) -> None:
    ended = dear_eval(
        "--preset", "card", "--data", data, "--ranker", "oracle", "--out", tmp_path / "out", "--json"
    )
    assert [report["name"] for report in json.loads(ended.out)] == ["dl19", "noveleval"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "covid",
            "has no retrieve_results_covid.json and no qrels.beir-v1.0.0-trec-covid.test.txt; candidates: ",
        ),
        ("card", "has no retrieve_results_dl19.json and no qrels.dl19-passage.txt; candidates: "),
    ],
)
def test_without_any_file_it_is_one_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    ended = dear_eval("--preset", name, "--data", tmp_path)
    assert (ended.code, len(ended.said)) == (1, 1)
    assert sentence in ended.said[0]
    assert "github.com/castorini/rank_llm" in ended.said[0]


def test_an_unknown_preset_names_those_there_are(tmp_path: Path) -> None:
    ended = dear_eval("--preset", "dl21", "--data", tmp_path)
    assert ended.said == [f"dear: there is no preset 'dl21'; there are {', '.join([*presets(), 'card'])}"]
