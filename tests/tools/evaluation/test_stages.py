"""``dear eval --stages``: the same candidates by the first stage alone, listwise, and by both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dear_tools.evaluation.stages import stage_options
from dear_tools.evaluation.trec import read_run
from tests.tools.evaluation.conftest import Serving, Talk, dear_eval

pytestmark = pytest.mark.integration

STAGES = ["listwise", "pointwise", "cascade"]


def two_stages(talk: Talk) -> None:
    """Ranks by shared words; the first stage alone leaves the order as it is, and costs a third."""
    strategy = talk.body.get("dear", {}).get("strategy", "auto")
    if strategy != "pointwise":
        talk.rank(strategy=strategy, windows=9 if strategy == "auto" else 1)
        return
    results = [
        {"index": index, "relevance_score": 1 - index / 100} for index in range(len(talk.body["documents"]))
    ]
    told = {"strategy": strategy, "windows": 0, "rounds": 1, "revision": "words@1"}
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    reply = {"model": "words", "results": results, "usage": usage, "meta": {"dear": told, "warnings": []}}
    talk.answer(200, json.dumps(reply).encode())


def lines(out: str) -> dict[str, list[str]]:
    """The last table's lines by stage."""
    found = [line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in STAGES]
    return {words[0]: words[1:] for words in found[-3:]}


def test_each_stage_is_ranked_and_compared_with_the_listwise_order(
    server: Serving, example: list[object], tmp_path: Path
) -> None:
    server.behaviour = two_stages
    ended = dear_eval(*example, "--url", server.url, "--stages", "--out", tmp_path, "--passes", "2")
    assert (ended.code, ended.said) == (0, [])
    asked = [body.get("dear", {}).get("strategy") for body in server.asked]
    assert asked == [None] * 4 + ["pointwise"] * 4 + ["cascade"] * 4
    assert [body.get("dear", {}).get("passes") for body in server.asked[::4]] == [2, None, 2]
    found = lines(ended.out)
    assert found["listwise"][:3] == ["nDCG@10", "95.25", "-"]
    assert found["pointwise"][:3] == ["nDCG@10", "69.79", "-25.46"]
    assert found["cascade"][:3] == ["nDCG@10", "95.25", "+0.00"]
    assert [found[stage][-3:] for stage in STAGES] == [
        ["105", "1.00", "9.0"],
        ["35", "0.33", "0.0"],
        ["105", "1.00", "1.0"],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(STAGES)
    assert read_run(tmp_path / "pointwise" / "run.trec").orders["q1"] == ("d1", "d2", "d3", "d4", "d5")


def test_json_has_a_report_a_stage(server: Serving, example: list[object], tmp_path: Path) -> None:
    server.behaviour = two_stages
    ended = dear_eval(*example, "--url", server.url, "--stages", "--out", tmp_path, "--json")
    reports = json.loads(ended.out)
    assert [one["name"].rpartition(", ")[2] for one in reports] == STAGES
    assert [one["against"] for one in reports[1:]] == ["listwise", "listwise"]


def test_a_stage_that_failed_is_tried_again_and_nothing_else(
    server: Serving, example: list[object], tmp_path: Path
) -> None:
    def refuses(talk: Talk) -> None:
        if talk.body.get("dear", {}).get("strategy") == "cascade":
            talk.refuse(400, "dear.strategy: cascade needs a first stage", param="dear.strategy")
        else:
            two_stages(talk)

    server.behaviour = refuses
    arguments = [*example, "--url", server.url, "--stages", "--out", tmp_path]
    assert dear_eval(*arguments).code != 0
    server.asked.clear()
    server.behaviour = two_stages
    ended = dear_eval(*arguments)
    assert ended.code == 0
    assert {body.get("dear", {}).get("strategy") for body in server.asked} == {"cascade"}
    assert lines(ended.out)["cascade"][2] == "+0.00"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ranker", "oracle"], "asks the server three times"),
        (["--preset", "card"], "asks the server three times"),
        (["--strategy", "cascade"], "names the listwise one"),
    ],
)
def test_what_does_not_go_with_stages_is_refused(
    example: list[object], tmp_path: Path, more: list[str], said: str
) -> None:
    given = [] if "--preset" in more else example
    ended = dear_eval(*given, "--stages", "--out", tmp_path, *more)
    assert ended.code == 2
    assert said in " ".join(" ".join(ended.said).replace("│", " ").split())


def test_options_of_windows_stay_away_from_the_first_stage() -> None:
    options = stage_options({"model": "legal", "top_n": 10, "cascade_depth": 5, "scoring": "generate"})
    assert options["listwise"] == {"model": "legal", "top_n": 10, "scoring": "generate"}
    assert options["pointwise"] == {"model": "legal", "top_n": 10, "strategy": "pointwise"}
    assert options["cascade"]["cascade_depth"] == 5
