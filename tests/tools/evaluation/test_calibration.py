"""``dear eval --calibration``: confidences beside judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dear_tools.evaluation.calibration import calibrate, lines, reliability_plot
from dear_tools.evaluation.results import QueryResult
from dear_tools.evaluation.trec import Qrels
from dear_tools.exits import ToolError
from tests.tools.evaluation.conftest import Ended, Serving, Talk, dear_eval


def drawn(queries: int, sharpness: float, seed: int = 0) -> tuple[list[QueryResult], Qrels]:
    """Answers whose neighbours are in the right order as often as the confidence says, if it were not for
    its log odds, which are ``sharpness`` times as high."""
    generator = np.random.default_rng(seed)
    answers, qrels = [], {}
    for number in range(queries):
        odds = generator.normal(0.8, 0.8, 10)
        is_right = generator.random(10) < 1 / (1 + np.exp(-odds))
        # Grades that rise or fall from rank to rank as the draw says.
        grades = 20 + np.concatenate([[0], np.cumsum(np.where(is_right, -1, 1))])
        names = [f"d{place}" for place in range(11)]
        qrels[f"q{number}"] = dict(zip(names, grades.tolist(), strict=True))
        confidences = (1 / (1 + np.exp(-sharpness * odds))).tolist()
        answers.append(
            QueryResult(
                query=f"q{number}",
                ranked=tuple((name, 1 - place / 100) for place, name in enumerate(names)),
                confidences=(*confidences, None),
                certified=(True, *[False] * 10),
            )
        )
    return answers, qrels


@pytest.mark.parametrize("sharpness", [0.4, 2.0])
def test_the_map_mends_what_was_fitted_elsewhere(sharpness: float) -> None:
    found = calibrate(*drawn(200, sharpness))
    assert (found.queries, found.pairs, found.tied, found.certified) == (200, 2000, 0, 200)
    assert found.before.ece > 0.06
    assert found.after.ece < 0.04
    assert found.after.brier < found.before.brier
    assert found.slope == pytest.approx(1 / sharpness, rel=0.25)
    assert sum(one.pairs for one in found.after.bins) == 2000


def test_what_is_calibrated_stays() -> None:
    found = calibrate(*drawn(200, 1.0))
    assert found.slope == pytest.approx(1.0, abs=0.2)
    assert found.intercept == pytest.approx(0.0, abs=0.2)
    assert found.before.ece < 0.04


def test_neighbours_of_one_grade_and_ranks_that_did_not_come_back_are_left_out() -> None:
    answers, qrels = drawn(30, 1.0)
    qrels["q0"] = dict.fromkeys(qrels["q0"], 1)
    del qrels["q1"]
    answers[2] = answers[2].model_copy(
        update={
            "ranked": answers[2].ranked[:3],
            "confidences": answers[2].confidences[:3],
            "certified": answers[2].certified[:3],
        }
    )
    found = calibrate(answers, qrels)
    assert (found.queries, found.pairs, found.tied) == (28, 27 * 10 + 2, 20)


def test_the_plot_is_a_png_and_the_lines_name_both_errors() -> None:
    found = calibrate(*drawn(40, 3.0))
    assert reliability_plot(found).startswith(b"\x89PNG")
    assert f"{found.before.ece:.3f} as it came, {found.after.ece:.3f} mapped" in lines(found)[1]


def test_too_little_to_say_anything_is_an_error() -> None:
    answers, qrels = drawn(2, 1.0)
    with pytest.raises(ToolError, match="10 neighbours have different grades, and at least 20 of two"):
        calibrate(answers[:1], qrels)
    with pytest.raises(ToolError, match="says of no rank how sure it is"):
        calibrate([QueryResult(query="q0", ranked=(("d0", 1.0),))], qrels)


def sure(talk: Talk) -> None:
    """Ranks by shared words, sure of every rank."""
    count = len(talk.body["documents"])
    results: list[dict[str, Any]] = [
        {"index": place, "relevance_score": 1 - place / 100, "confidence": 0.9, "certified": False}
        for place in range(count)
    ]
    results[-1]["confidence"] = None
    told = {"strategy": "single", "windows": 1, "rounds": 1, "revision": "words@1"}
    reply = {"model": "words", "results": results, "usage": {}, "meta": {"dear": told, "warnings": []}}
    talk.answer(200, json.dumps(reply).encode())


def judged(folder: Path, queries: int) -> list[object]:
    """Arguments that name made-up candidates, each better than the next."""
    candidates, qrels = [], []
    for number in range(queries):
        hits = [
            {
                "content": f"text {place}",
                "qid": f"q{number}",
                "docid": f"d{number}-{place}",
                "rank": place + 1,
            }
            for place in range(5)
        ]
        candidates.append({"query": f"query {number}", "hits": hits})
        qrels += [f"q{number} 0 d{number}-{place} {5 - place}" for place in range(5)]
    (folder / "candidates.json").write_text(json.dumps(candidates))
    (folder / "qrels.txt").write_text("\n".join(qrels) + "\n")
    return ["--candidates", folder / "candidates.json", "--qrels", folder / "qrels.txt"]


def run(server: Serving, folder: Path, queries: int, *more: object) -> Ended:
    return dear_eval(
        *judged(folder, queries), "--url", server.url, "--out", folder / "out", "--calibration", *more
    )


def test_the_command_asks_for_confidences_and_writes_what_it_found(server: Serving, tmp_path: Path) -> None:
    server.behaviour = sure
    ended = run(server, tmp_path, 6)
    assert ended.code == 0, ended.said
    assert {body["dear"]["confidence"] for body in server.asked} == {True}
    found = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert (found["pairs"], found["right"], found["before"]["ece"]) == (24, 1.0, pytest.approx(0.1))
    assert (tmp_path / "out" / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert any("expected calibration error: 0.100 as it came" in line for line in ended.said)


def test_a_server_that_knows_no_confidence_is_said_so(server: Serving, tmp_path: Path) -> None:
    ended = run(server, tmp_path, 6)
    assert (ended.code, ended.said[-1]) == (
        1,
        "dear: --calibration: the server says of no rank how sure it is",
    )


def test_a_known_order_has_no_confidence(server: Serving, tmp_path: Path) -> None:
    ended = run(server, tmp_path, 6, "--ranker", "oracle")
    assert ended.code == 2
    assert "--calibration needs a server" in " ".join(ended.said)
