"""Long documents in parts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.parts import MOST_PARTS, split, split_documents
from dear_serving.types import Coverage, Ranking, RankTask


@given(st.text("x \n", max_size=300), st.integers(1, 40), st.none() | st.integers(1, 8))
def test_parts_fit_overlap_and_leave_no_word_out(shape: str, most_chars: int, most_words: int | None) -> None:
    # Every character is another one, so that a part is found where it is from.
    text = "".join(chr(0x4E00 + place) if mark == "x" else mark for place, mark in enumerate(shape))
    parts = list(split(text, most_chars, most_words))
    if parts == [text]:
        return
    at = 0  # up to where the text was seen
    begin = -1
    for part in parts:
        assert 0 < len(part) <= most_chars
        assert most_words is None or len(part.split()) <= most_words
        assert part == part.strip()
        assert text.index(part) > begin
        begin = text.index(part)
        assert not text[at:begin].strip(), "a word was left out"
        at = max(at, begin + len(part))
    assert not text[at:].strip()


def test_a_quarter_of_a_part_is_in_the_next_one() -> None:
    text = " ".join(f"w{number:03}" for number in range(100))
    parts = list(split(text, 20 * 5 - 1))
    assert [part.split()[0] for part in parts] == ["w000", "w015", "w030", "w045", "w060", "w075", "w090"]
    assert parts[0].split()[15:] == parts[1].split()[:5]


@pytest.mark.parametrize("text", ["", "  ", "short", "a b c"])
def test_what_is_short_enough_stays_to_the_byte(text: str) -> None:
    assert list(split(text, 5, 3)) == [text]


def test_one_word_of_a_million_characters_is_split_within() -> None:
    parts = list(split("x" * 1_000_000, 300))
    assert len(parts) == 3334
    assert {len(part) for part in parts} == {300, 100}


def test_more_parts_than_a_task_may_have_are_the_first_of_each_document() -> None:
    parts = split_documents(RankTask("q", ["x " * 50_000, "y", "z " * 50_000]), 4, None)
    assert parts.cut == 2
    assert len(parts.owners) == 2 * (MOST_PARTS // 3) + 1 <= MOST_PARTS
    assert len(split_documents(RankTask("q", ["x y"] * 20_000), 1, None).owners) == 20_000


def test_the_best_part_of_a_document_counts() -> None:
    task = RankTask("q", ["short", "a b c d", "e f"], top_n=1)
    parts = split_documents(task, 3, None)
    assert list(zip(parts.task.passages, parts.owners, strict=True)) == [
        ("sho", 0),
        ("rt", 0),
        ("a b", 1),
        ("c d", 1),
        ("e f", 2),
    ]
    assert parts.task.top_n == 2
    ranking = Ranking(
        (3, 2, 4, 0, 1), (0.9, 0.8, 0.7, 0.6, 0.5), "rank", "single", "", 1, 1, coverage=Coverage(2, 1, 2)
    )
    found = parts.to_documents(ranking)
    assert (found.order, found.scores, found.parts) == ((1, 2, 0), (0.9, 0.7, 0.6), 5)
    assert found.coverage == Coverage(listwise=1, one_pass=1, unread=1)
    assert found.warnings == ("2 documents were split into parts, 5 in all; the best one counts",)


def test_progress_tells_of_each_document_once() -> None:
    parts = split_documents(RankTask("q", ["a b", "c"]), 1, None)
    told: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    tell = parts.on_progress(lambda order, scores: told.append((order, scores)))
    tell((1,), (0.9,))
    tell((1, 0, 2), (0.9, 0.8, 0.7))
    assert told == [((0,), (0.9,)), ((0, 1), (0.9, 0.7))]


def test_documents_that_fit_are_no_parts() -> None:
    parts = split_documents(RankTask("q", ["a", "b"]), 300, None)
    ranking = Ranking((1, 0), (0.9, 0.8), "rank", "single", "", 1, 1, coverage=Coverage(2))
    found = parts.to_documents(ranking)
    assert (found.order, found.parts, found.warnings) == ((1, 0), 2, ())
    assert re.fullmatch("a|b", parts.task.passages[0])
