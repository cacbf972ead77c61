"""parse_permutation: whatever a model wrote becomes a permutation."""

# ruff: noqa: RUF001 - digits and brackets of other scripts are what is tested

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_serving.ranking.permutation import Permutation, parse_permutation
from dear_serving.types import Repairs

CLEAN = Repairs()


def order_of(text: str, count: int = 5, first_identifier: int = 0) -> tuple[int, ...]:
    return parse_permutation(text, count, first_identifier=first_identifier).order


# What answers are made of, and what looks like it.
fragments = st.sampled_from(
    [
        *["[", "]", "［", "］", "【", "】", " > ", ", ", "\n", "1.", "2)", "passage ", "Document #", "and "],
        *["</think>", "### Final Reranking:", "final ranking", "٣", "４", "१", "9" * 30, "³", "½"],
        *["-1", "1.5", "[0]", "[1]", "[2]", "4] > [1]", "\x00", "\ud800", " ", "🙂"],
    ]
)
answers = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(categories=["Nd", "No", "Ps", "Pe", "Zs"]), max_size=40),
    st.lists(fragments | st.integers(-5, 130).map(str), max_size=30).map("".join),
    st.lists(st.integers(-2, 130).map("[{}]".format), max_size=60).map(" > ".join),
)


@given(text=answers, count=st.integers(0, 120), first_identifier=st.sampled_from([0, 1]))
def test_any_text_becomes_a_permutation(text: str, count: int, first_identifier: int) -> None:
    parsed = parse_permutation(text, count, first_identifier=first_identifier)
    assert sorted(parsed.order) == list(range(count))
    assert min(parsed.repairs.repeated, parsed.repairs.missing, parsed.repairs.out_of_range) >= 0
    assert parsed.repairs.missing <= max(0, count - 1)
    if parsed.repairs.unparseable:
        assert parsed.order == tuple(range(count))


@given(order=st.integers(0, 120).flatmap(lambda n: st.permutations(range(n))), first=st.integers(0, 1))
def test_a_printed_permutation_reads_back_without_repairs(order: list[int], first: int) -> None:
    printed = Permutation(tuple(order), CLEAN, first)
    assert parse_permutation(str(printed), len(order), first_identifier=first) == printed


def test_prints_the_identifiers_the_model_used() -> None:
    assert str(Permutation((4, 1, 0), CLEAN)) == "[4] > [1] > [0]"
    assert str(Permutation((4, 1, 0), CLEAN, first_identifier=1)) == "[5] > [2] > [1]"


@pytest.mark.parametrize("first_identifier", [0, 1])
def test_identifiers_count_from_the_templates_first(first_identifier: int) -> None:
    parsed = parse_permutation("[2] > [1]", 2 + (1 - first_identifier), first_identifier=first_identifier)
    assert parsed.order[:2] == ((2, 1) if first_identifier == 0 else (1, 0))


WELL_READ = {
    "the ideal answer": "[4] > [1] > [0] > [3] > [2]",
    "no spaces": "[4]>[1]>[0]>[3]>[2]",
    "spaces inside brackets": "[ 4 ] > [1 ] > [ 0] > [3] > [2]",
    "commas": "[4], [1], [0], [3] and [2]",
    "nothing between": "[4][1][0][3][2]",
    "opens inside the prompt's bracket": "4] > [1] > [0] > [3] > [2]",
    "opens inside the bracket after a space": " 4] > [1] > [0] > [3] > [2]",
    "numbered list": "1. [4]\n2. [1]\n3. [0]\n4. [3]\n5. [2]",
    "numbered list with brackets for numbers": "1) [4]\n2) [1]\n3) [0]\n4) [3]\n5) [2]",
    "numbered list with reasons": (
        "1. [4] names the year\n2. [1] names Edison\n3. [0] has lightning\n4. [3] is light\n5. [2] no"
    ),
    "list with reasons that compare": (
        "[4] answers it, better than [1]\n[1] is about Edison, unlike [0]\n[0] weak\n[3] weaker\n[2] off"
    ),
    "bullets": "- [4]\n- [1]\n- [0]\n- [3]\n- [2]",
    "bold": "**[4]** > **[1]** > **[0]** > **[3]** > **[2]**",
    "remarks between": "[4] (best) > [1] (good) > [0] > [3] > [2]",
    "told as a sentence": "The best is [4], followed by [1], then [0], [3] and finally [2].",
    "groups": "Most relevant: [4], [1]\nLess relevant: [0], [3], [2]",
    "bare numbers": "4 > 1 > 0 > 3 > 2",
    "bare numbers with commas": "4, 1, 0, 3, 2",
    "bare numbers in one pair of brackets": "[4, 1, 0, 3, 2]",
    "bare numbers one a line": "4\n1\n0\n3\n2",
    "numbered list of bare numbers": "1. 4\n2. 1\n3. 0\n4. 3\n5. 2",
    "bare numbers after prose with a year": "Edison did it in 1879: 4 > 1 > 0 > 3 > 2",
    "passages named": "Passage 4 > Passage 1 > Passage 0 > Passage 3 > Passage 2",
    "passages named in brackets": "[Passage 4] > [Passage 1] > [Passage 0] > [Passage 3] > [Passage 2]",
    "documents named": "Document #4, document 1, doc 0, doc 3, text 2",
    "passages discussed, then ranked": (
        "Passage 0 is weak. Passage 1 is about Edison.\n"
        "Passage 4 > Passage 1 > Passage 0 > Passage 3 > Passage 2"
    ),
    "full-width digits": "[４] > [１] > [０] > [３] > [２]",
    "Arabic-Indic digits": "[٤] > [١] > [٠] > [٣] > [٢]",
    "full-width brackets": "［4］ > ［1］ > ［0］ > ［3］ > ［2］",
    "lenticular brackets": "【4】【1】【0】【3】【2】",
    "prose with digits before": "Of the 5 passages, 2 name 1879. [4] > [1] > [0] > [3] > [2]",
    "explanation after": "[4] > [1] > [0] > [3] > [2]\n\n[2], [3] have nothing on the light bulb.",
    "explanation after that ends in a chain": "[4] > [1] > [0] > [3] > [2], since [0] > [3] > [2].",
    "partial draft before": "[2] > [0] maybe. No: [4] > [1] > [0] > [3] > [2]",
    "whole draft before": "[0] > [1] > [2] > [3] > [4] at first. Better: [4] > [1] > [0] > [3] > [2]",
    "longer chain of fewer passages before": (
        "[9] > [8] > [7] > [6] > [0] > [9] > [1]? No: [4] > [1] > [0] > [3] > [2]"
    ),
    "list with reasons that name the best again": (
        "[4] answers it\n[1] less so than [4]\n[0] weak\n[3] unlike [4] off\n[2] way off"
    ),
    "thoughts closed": "<think>[0] > [1] > [2] > [3] > [4]?</think>[4] > [1] > [0] > [3] > [2]",
    "thoughts closed twice": "[0]</think>[2] > [1]</think>\n4 > 1 > 0 > 3 > 2",
    "nothing after the thoughts": "[4] > [1] > [0] > [3] > [2]</think>",
    "final marker": "Step 3: [0], [1], [2]\n\n### Final Reranking: [4] > [1] > [0] > [3] > [2]",
    "final marker, next line": "[0] > [1] fits.\n**Final Ranking:**\n[4] > [1] > [0] > [3] > [2]",
    "final marker, bare numbers": "[0] and [1] fit. Final ranked list: 4 > 1 > 0 > 3 > 2",
    "final marker and an explanation": (
        "Final Reranking: [4] > [1] > [0] > [3] > [2]\nThis final ranking rests on 3 criteria."
    ),
    "final marker with list of criteria after": (
        "[4] > [1] > [0] > [3] > [2]\nThe final ranking follows:\n1. Relevance\n2. Clarity"
    ),
    "final marker in the thoughts": "Final ranking: [0] > [1]</think>[4] > [1] > [0] > [3] > [2]",
    "final marker, opens inside the bracket": "Final Reranking: 4] > [1] > [0] > [3] > [2]",
}


@pytest.mark.parametrize("text", WELL_READ.values(), ids=WELL_READ.keys())
def test_reads_a_whole_ranking_written_as(text: str) -> None:
    assert order_of(text) == (4, 1, 0, 3, 2)


MENDED = [
    ("", (0, 1, 2), Repairs(unparseable=1)),
    ("I cannot rank these.", (0, 1, 2), Repairs(unparseable=1)),
    ("[7] > [9]", (0, 1, 2), Repairs(out_of_range=2, unparseable=1)),
    ("Edison, in 1879.", (0, 1, 2), Repairs(unparseable=1)),
    ("version 2.1 or v1", (0, 1, 2), Repairs(unparseable=1)),
    ("[2] > [0] > [1]", (2, 0, 1), CLEAN),
    ("[2]", (2, 0, 1), Repairs(missing=2)),
    ("[2] > [0] > [1", (2, 0, 1), Repairs(missing=1)),
    ("[2] > [0] > [", (2, 0, 1), Repairs(missing=1)),
    ("[2] > [2] > [0] > [2] > [1]", (2, 0, 1), Repairs(repeated=2)),
    ("[2] > [3] > [0] > [1]", (2, 0, 1), Repairs(out_of_range=1)),
    ("[2] > [2] > [8]", (2, 0, 1), Repairs(repeated=1, missing=2, out_of_range=1)),
    (f"[{'1' * 5000}] > [1]", (1, 0, 2), Repairs(missing=2, out_of_range=1)),
    ("[00002] > [01] > [0]", (2, 1, 0), CLEAN),
    ("[-1] > [1]", (1, 0, 2), Repairs(missing=2)),
    ("[²] > [1] > [0]", (1, 0, 2), Repairs(missing=1)),
]


@pytest.mark.parametrize(("text", "order", "repairs"), MENDED, ids=[row[0][:30] for row in MENDED])
def test_counts_what_it_mends(text: str, order: tuple[int, ...], repairs: Repairs) -> None:
    assert parse_permutation(text, 3, first_identifier=0) == Permutation(order, repairs)


def test_the_identifier_zero_is_out_of_range_where_they_count_from_one() -> None:
    parsed = parse_permutation("[3] > [0] > [1]", 3, first_identifier=1)
    assert parsed == Permutation((2, 0, 1), Repairs(missing=1, out_of_range=1), 1)


def test_no_passages_need_no_answer() -> None:
    assert parse_permutation("[0] > [1]", 0, first_identifier=0).order == ()
    assert parse_permutation("", 0, first_identifier=1) == Permutation((), CLEAN, 1)


def test_one_passage_after_a_final_marker() -> None:
    text = "[1] fits.\n### Final Reranking: [1]"
    assert parse_permutation(text, 1, first_identifier=1) == Permutation((0,), CLEAN, 1)


LENGTH = 100_000
HOSTILE = [
    *["[", "[ ", "[1", "[1 ", "]", "1", "1\n", "1. ", "1.\n", "\n", "1.1.", "[1]1. ", "[1] and ", " 1"],
    *["[1] > ", "[1] x ", "1)\t", "passage ", "passage #", "final ", "final ranking", "</think>"],
    *["final ranking: 1 ", "final ranking: [1] x [2] ", "passage 1 ", "- ", "１", "\t\n"],
    *["passage" + " " * 3000, "final" + " " * 3000, "[" + " " * 3000, "1. " + " " * 3000 + "\n"],
    *["[1]" + " " * 3000, "passage" + " " * 1500 + "#" + " " * 1500, "final ranked" + " " * 3000],
]


@pytest.mark.parametrize("end", ["", "x [2] 1"])
@pytest.mark.parametrize("piece", HOSTILE, ids=lambda piece: repr(piece[:16]))
@pytest.mark.integration
def test_hostile_text_takes_linear_time(piece: str, end: str) -> None:
    text = piece * (LENGTH // len(piece)) + end
    started = time.process_time()
    parse_permutation("[1]" + text, 20, first_identifier=1)
    parse_permutation("1." + text, 20, first_identifier=1)
    assert time.process_time() - started < 1.0
