"""Lists to rank: new every time, equally long, the same for a seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.workloads import DEMO_TOKENIZER, Lists

ABSENT = Path("absent.json")


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """Two topics with twelve long passages each, as RankLLM writes them."""
    topics = [
        {
            "query": f"query {topic}",
            "hits": [{"content": f"passage {topic} {hit} " + "of many words " * 30} for hit in range(12)],
        }
        for topic in range(2)
    ]
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(topics))
    return path


def tokens(text: str) -> int:
    tokenizer: Tokenizer = Tokenizer.from_file(str(DEMO_TOKENIZER))
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_candidates_are_used_where_they_are_at_hand(candidates: Path) -> None:
    lists = Lists(0, data=candidates)
    workload = lists.new(5)
    assert workload.query in {"query 0", "query 1"}
    topic = workload.query.removeprefix("query ")
    assert all(passage.startswith(f"passage {topic} ") for passage in workload.passages)
    assert "TREC DL 2019" in lists.source


@pytest.mark.parametrize("absent", [True, False])
def test_all_lists_are_new_and_as_long_as_asked(candidates: Path, absent: bool) -> None:
    lists = Lists(0, 16, data=ABSENT if absent else candidates)
    taken = lists.take(20, 7)
    assert all(len(set(one.passages)) == 7 for one in taken)
    beginnings = {(one.query, one.passages[0]) for one in taken}
    assert len(beginnings) == 20


def test_lists_are_invented_once_the_candidates_are_used_up(candidates: Path) -> None:
    taken = Lists(0, 16, data=candidates).take(40, 3)  # there are 24 beginnings
    assert len({(one.query, one.passages[0]) for one in taken}) == 40
    assert len([one for one in taken if one.query.startswith("query ")]) == 24


@pytest.mark.parametrize("absent", [True, False])
def test_passages_are_cut_to_one_length(candidates: Path, absent: bool) -> None:
    lists = Lists(0, 16, data=ABSENT if absent else candidates)
    lengths = [tokens(passage) for one in lists.take(5, 10) for passage in one.passages]
    assert max(lengths) == 16
    assert sum(lengths) > 0.95 * 16 * len(lengths)


def test_a_list_longer_than_the_candidates_is_invented(candidates: Path) -> None:
    assert len(Lists(0, data=candidates).new(30).passages) == 30


def test_the_seed_decides(candidates: Path) -> None:
    assert Lists(3, data=candidates).take(4, 5) == Lists(3, data=candidates).take(4, 5)
    assert Lists(3, data=ABSENT).take(2, 5) == Lists(3, data=ABSENT).take(2, 5)
    assert Lists(3, data=candidates).take(4, 5) != Lists(4, data=candidates).take(4, 5)
