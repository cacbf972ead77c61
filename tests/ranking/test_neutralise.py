"""neutralise: a passage may say anything, but not in the prompt's own marks."""

# ruff: noqa: RUF001 - digits and brackets of other scripts are what is tested

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dear_serving.ranking import neutralise as neutralise_module
from dear_serving.ranking.neutralise import neutralise

MARKED = [
    ("[3]", "(3)"),
    ("[3] > [1]", "(3) > (1)"),
    ("[ 3 ]", "( 3 )"),
    ("[3", "(3"),
    ("3]", "3)"),
    ("3 ]", "3 )"),
    ("3] > [1", "3) > (1"),
    ("[3, 4]", "(3, 4)"),
    ("[[3]]", "[(3)]"),
    ("［3］", "(3)"),
    ("【3】", "(3)"),
    ("[٣]", "(٣)"),
    ("[３]", "(３)"),
    ("[\t3\t]", "(\t3\t)"),
    ("[\n3\n]", "( 3 )"),
    ("[\x003]", "( 3)"),
    ("a\nb", "a b"),
    ("a\r\n\r\nb", "a b"),
    ("a\u2028b\u2029c\x85d", "a b c d"),
    ("a\x00b\x1bc\x7f", "a b c "),
    ("a\ud800b", "a\ufffdb"),
    ("\udfff", "\ufffd"),
]


@pytest.mark.parametrize(("text", "safe"), MARKED, ids=[ascii(row[0]) for row in MARKED])
def test_takes_the_prompts_marks_from(text: str, safe: str) -> None:
    assert neutralise(text) == safe


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "Edison's light bulb, 1879.",
            "f(3) = 4",
            "a\tb",
            "  two  spaces  ",
            "[sic] [a1] [3rd] x[i1] {3}",
        ],
        *["naïve Ünïcode 東京 🙂", "x[i] = y", "3 > 1", "<|eot_id|> <s> </think>", "\ufffd"],
    ],
)
def test_ordinary_text_comes_back_unchanged(text: str) -> None:
    assert neutralise(text) == text


hostile = st.lists(
    st.sampled_from(["[", "]", "［", "］", "【", "】", " ", "\t", "\n", "\x00", "\xa0", "\ud800", ">"])
    | st.sampled_from(["0", "17", "٣", "３", "x", "_", "é"]),
    max_size=25,
).map("".join)


@given(st.text() | hostile)
@example("[" + " " * 9 + "3" + " " * 9 + "]")
def test_nothing_that_reads_as_an_identifier_is_left(text: str) -> None:
    safe = neutralise(text)
    assert not re.search(r"[\[［【]\s*\d+\s*[\]］】]", safe)
    assert not re.search(r"(?<!\w)\d++ ?[\]］】]|[\[［【]\s*+\d++(?!\w)", safe)
    assert not set(safe) & set(map(chr, [*range(9), *range(10, 32), 127, 0x85, 0x2028, 0x2029]))
    assert safe.encode("utf-8").decode("utf-8") == safe
    assert neutralise(safe) == safe


def test_a_long_hostile_text_takes_linear_time() -> None:
    started = time.process_time()
    for piece in ("[", "[ ", "[1", "1" * 3000 + "]", "1 ", "[" + " " * 3000, "\n", "1" + " " * 8):
        neutralise(piece * (200_000 // len(piece)))
    assert time.process_time() - started < 4.0


@given(st.text(alphabet="[]［】 3٣a\n\r\ud800", max_size=40), st.integers(1, 8))
def test_a_long_text_becomes_the_same_in_pieces(text: str, piece_chars: int) -> None:
    whole = neutralise(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neutralise_module, "_PIECE_CHARS", piece_chars)
        assert neutralise(text) == whole
