"""The log of answers: what a second start finds, whatever ended the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dear_client import Repairs
from dear_tools.evaluation.results import QueryResult, ResultLog
from dear_tools.exits import ToolError

SETTINGS: dict[str, Any] = {"candidates": "sha256:" + "ab" * 32, "depth": 100, "model": "legal"}
FULL = QueryResult(
    query="q1",
    ranked=(("d2", 0.75), ("d\u2028é", 0.25)),
    wall_ms=12.5,
    windows=9,
    rounds=9,
    prompt_tokens=100,
    completion_tokens=20,
    repairs=Repairs(missing=2),
    warnings=("47 passages cut",),
    strategy="sliding",
    model="legal",
    revision="legal@1",
)
FAILED = QueryResult(query="q2", error="AnswerTimeout: no answer")


def kept(folder: Path, *answers: QueryResult) -> Path:
    with ResultLog(folder, SETTINGS) as log:
        for answer in answers:
            log.append(answer)
    return log.path


def found(folder: Path) -> dict[str, QueryResult]:
    with ResultLog(folder, SETTINGS) as log:
        return log.answers


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    kept(tmp_path, FULL, FAILED)
    assert found(tmp_path) == {"q1": FULL, "q2": FAILED}
    assert found(tmp_path)["q1"].order == ("d2", "d\u2028é")


def test_an_answer_is_in_the_file_as_soon_as_it_is_kept(tmp_path: Path) -> None:
    with ResultLog(tmp_path, SETTINGS) as log:
        log.append(FULL)
        assert len(log.path.read_text().splitlines()) == 2


def test_the_first_line_says_what_decided_the_answers(tmp_path: Path) -> None:
    header = json.loads(kept(tmp_path, FULL).read_text().splitlines()[0])
    assert header["settings"] == SETTINGS
    assert header["digest"].startswith("sha256:")


def test_nothing_is_written_before_the_first_answer(tmp_path: Path) -> None:
    kept(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_later_answer_stands_for_an_earlier_one(tmp_path: Path) -> None:
    kept(tmp_path, FAILED)
    better = FAILED.model_copy(update={"error": None, "ranked": (("d1", 1.0),)})
    kept(tmp_path, better)
    assert found(tmp_path) == {"q2": better}


def test_a_line_torn_anywhere_is_dropped_and_the_rest_stands(tmp_path: Path) -> None:
    path = kept(tmp_path, FAILED, FULL)
    whole = path.read_bytes()
    header, first, second = whole.splitlines(keepends=True)
    for length in range(1, len(second)):
        path.write_bytes(header + first + second[:length])
        assert found(tmp_path) == {"q2": FAILED}
    kept(tmp_path, FULL)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_torn_header_begins_anew(tmp_path: Path, length: int) -> None:
    path = kept(tmp_path, FULL)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    assert found(tmp_path) == {}
    kept(tmp_path, FULL)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"depth": 20}, "depth is 100 there and 20 here"),
        ({"model": None}, "model is legal there and not set here"),
        ({"top_n": 10}, "top_n is not set there and 10 here"),
        (
            {"candidates": "sha256:" + "cd" * 32},
            f"candidates is sha256:{'ab' * 6} there and sha256:{'cd' * 6} here",
        ),
        (
            {"depth": 20, "model": "medical"},
            "depth is 100 there and 20 here; model is legal there and medical here",
        ),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = kept(tmp_path, FULL)
    before = path.read_bytes()
    with pytest.raises(ToolError) as error:
        ResultLog(tmp_path, {**SETTINGS, **change})
    assert str(error.value) == (
        f"{path} answers other settings: {sentence}; choose another --out, or --restart to begin anew"
    )
    assert path.read_bytes() == before


def test_restart_forgets_what_was_there_with_the_first_answer(tmp_path: Path) -> None:
    path = kept(tmp_path, FULL, FAILED)
    before = path.read_bytes()
    with ResultLog(tmp_path, {**SETTINGS, "depth": 20}, restart=True) as log:
        assert log.answers == {}
        assert path.read_bytes() == before
        log.append(FULL)
    with ResultLog(tmp_path, {**SETTINGS, "depth": 20}) as log:
        assert log.answers == {"q1": FULL}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hello\n", "is no log of dear eval; choose another --out, or --restart"),
        ('{"a": 1}\n', "is no log of dear eval; choose another --out, or --restart"),
    ],
)
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "answers.jsonl").write_text(text)
    with pytest.raises(ToolError) as error:
        ResultLog(tmp_path, SETTINGS)
    assert str(error.value) == f"{tmp_path / 'answers.jsonl'} {sentence}"


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    path = kept(tmp_path, FULL)
    with path.open("a") as file:
        file.write('{"query": "q3", "rank": 1}\n')
    with pytest.raises(ToolError) as error:
        ResultLog(tmp_path, SETTINGS)
    assert str(error.value) == (f"{path}:3: no answer: extra inputs are not permitted; --restart begins anew")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match=r"^cannot write .*answers.jsonl: (not a directory|file exists)$"):
        kept(tmp_path / "file", FULL)
