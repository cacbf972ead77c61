"""Lists to rank: invented ones, and those of a file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.exits import ToolError
from dear_tools.load.lengths import parse_lengths
from dear_tools.load.lists import FileLists, InventedLists, List, OneList, read_lists

TOPICS = [List(f"query {n}", tuple(f"passage {n}.{m} of some words" for m in range(4))) for n in range(5)]


def file_lists(
    topics: list[List] = TOPICS, passages: str | None = None, words: str | None = None, seed: int = 0
) -> FileLists:
    counts, sizes = (None if text is None else parse_lengths(text) for text in (passages, words))
    return FileLists(topics, counts, sizes, random.Random(seed), "topics.jsonl")


@given(st.integers(1, 30), st.integers(1, 60), st.integers(0, 99))
def test_an_invented_list_has_as_many_passages_and_words_as_are_asked_for(
    passages: int, words: int, seed: int
) -> None:
    lists = InventedLists(parse_lengths(str(passages)), parse_lengths(str(words)), random.Random(seed))
    made = lists.next()
    assert len(made.passages) == passages
    assert {len(passage.split()) for passage in made.passages} == {words}
    assert len(set(made.query.split())) == 6


@pytest.mark.parametrize("sizes", ["20", "1"])
def test_no_two_invented_lists_are_alike(sizes: str) -> None:
    lists = InventedLists(parse_lengths(sizes), parse_lengths(sizes), random.Random(0))
    assert len({lists.next() for _ in range(2000)}) == 2000


def test_invented_passages_differ_in_what_they_share_with_the_query() -> None:
    lists = InventedLists(parse_lengths("50"), parse_lengths("40"), random.Random(0))
    made = lists.next()
    shared = {len(set(made.query.split()) & set(passage.split())) for passage in made.passages}
    assert len(shared) > 3


def test_the_same_seed_invents_the_same_lists() -> None:
    one, other = (
        InventedLists(parse_lengths("3-9"), parse_lengths("20~0.5"), random.Random(5)) for _ in range(2)
    )
    assert [one.next() for _ in range(20)] == [other.next() for _ in range(20)]


def test_a_files_lists_are_its_own_with_their_passages_in_another_order_each_time() -> None:
    lists = file_lists()
    made = [lists.next() for _ in range(100)]
    assert len(set(made)) == 100
    known = {topic.query: sorted(topic.passages) for topic in TOPICS}
    assert all(sorted(one.passages) == known[one.query] for one in made)


def test_every_topic_of_a_file_has_its_turn_before_any_comes_again() -> None:
    lists = file_lists()
    for _ in range(10):
        assert sorted(lists.next().query for _ in range(5)) == [topic.query for topic in TOPICS]


def test_a_files_lists_have_as_many_passages_and_words_as_are_asked_for() -> None:
    lists = file_lists(passages="2-3", words="1-2")
    made = [lists.next() for _ in range(60)]
    assert {len(one.passages) for one in made} == {2, 3}
    assert {len(passage.split()) for one in made for passage in one.passages} == {1, 2}
    wholes = {passage for topic in TOPICS for passage in topic.passages}
    assert all(any(w.startswith(p) for w in wholes) for one in made for p in one.passages)


def test_more_passages_than_a_list_has_are_all_that_it_has_and_the_report_says_so() -> None:
    lists = file_lists(passages="100")
    assert len(lists.next().passages) == 4
    assert lists.describe()["passages"] == "100, or all where a list has fewer"
    assert file_lists(passages="2").describe()["passages"] == "2"
    assert file_lists().describe() == {
        "lists": "topics.jsonl",
        "topics": 5,
        "passages": "as in the file",
        "words": "as in the file",
    }


def test_a_file_that_has_no_other_list_left_is_said_in_a_sentence() -> None:
    lists = file_lists([List("q", ("a", "b", "c"))])
    made = [lists.next() for _ in range(6)]
    assert len(set(made)) == 6
    with pytest.raises(ToolError) as raised:
        lists.next()
    assert str(raised.value) == (
        "topics.jsonl: after 6 requests no other can be made of its lists; give more lists, or --identical"
    )


def test_a_topic_that_is_used_up_leaves_the_others() -> None:
    lists = file_lists([List("one passage", ("a",)), List("many", tuple("abcdef"))])
    assert Counter(lists.next().query for _ in range(300)) == {"one passage": 1, "many": 299}


def test_identical_lists_are_the_same_one_every_time_and_the_report_says_so() -> None:
    lists = OneList(file_lists([List("q", ("a",))]))
    assert {lists.next() for _ in range(50)} == {List("q", ("a",))}
    assert lists.describe()["identical"] is True


# --- files ------------------------------------------------------------------------------------------

JSONL = '{"query": "q1", "documents": ["a", {"text": "b", "id": 7}]}'


@pytest.mark.parametrize(
    "text",
    [
        JSONL,
        f"\n{JSONL}\n\n",
        f"\ufeff{JSONL}",
        f"{JSONL}\r\n",
        '[{"query": "q1", "hits": [{"content": "a", "qid": 1, "rank": 1}, {"content": "b"}]}]',
        ' \n[\n {"query": "q1", "documents": ["a", "b"]}\n]',
    ],
    ids=["jsonl", "blank lines", "byte order mark", "windows", "rankgpt", "json"],
)
def test_lists_are_read_from_jsonl_and_from_rankgpts_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lists"
    path.write_bytes(text.encode())
    assert read_lists(path) == [List("q1", ("a", "b"))]


def test_characters_that_end_lines_elsewhere_do_not_end_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    document = "one\u2028two\x85three\x0bfour"
    line = json.dumps({"query": "q", "documents": [document]}, ensure_ascii=False).replace("\\u000b", "\x85")
    path.write_text(f"{line}\n{line}\nbroken\n", encoding="utf-8")
    with pytest.raises(ToolError, match="line 3: this is not valid JSON"):
        read_lists(path)
    path.write_text(f"{line}\n", encoding="utf-8")
    assert "\u2028" in read_lists(path)[0].passages[0]


NEEDS_QUERY = 'an object with a "query" is needed'
NEEDS_DOCUMENTS = '"documents" (or "hits") is needed, with at least one passage'


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"query": "q", "documents": ["a"', "this is not valid JSON"),
        ("query: q", "this is not valid JSON"),
        ("[" * 100_000, "this is not valid JSON"),
        ("7", NEEDS_QUERY),
        ("null", NEEDS_QUERY),
        ('{"documents": ["a"]}', NEEDS_QUERY),
        ('{"query": 7, "documents": ["a"]}', NEEDS_QUERY),
        ('{"query": " ", "documents": ["a"]}', "the query is blank"),
        ('{"query": "q"}', NEEDS_DOCUMENTS),
        ('{"query": "q", "documents": []}', NEEDS_DOCUMENTS),
        ('{"query": "q", "documents": "a"}', NEEDS_DOCUMENTS),
        ('{"query": "q", "documents": ["a", 7]}', "passage 2 has no text"),
        ('{"query": "q", "documents": [{"title": "a"}]}', "passage 1 has no text"),
        ('{"query": "q", "hits": [{"content": null}]}', "passage 1 has no text"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "lists.jsonl"
    path.write_text("\n".join([*[JSONL] * 3416, line, JSONL]))
    with pytest.raises(ToolError) as raised:
        read_lists(path)
    assert str(raised.value) == f"{path}, line 3417: {sentence}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "{path} has no lists"),
        ("\n \n", "{path} has no lists"),
        ("[]", "{path} has no lists"),
        ('[{"query": "q", "hits": ["a"]}, {"query": "q"}]', "{path}, entry 2: " + NEEDS_DOCUMENTS),
        ('[{"query": "q"', "{path} is not valid JSON: Expecting ',' delimiter: line 1 column 15 (char 14)"),
    ],
)
def test_a_file_without_lists_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "lists.json"
    path.write_text(text)
    with pytest.raises(ToolError) as raised:
        read_lists(path)
    assert str(raised.value) == sentence.format(path=path)


def test_a_file_that_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=f"cannot read {tmp_path}: is a directory"):
        read_lists(tmp_path)
    with pytest.raises(ToolError, match="no such file or directory"):
        read_lists(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b'{"query": "caf\xe9"}')
    with pytest.raises(ToolError, match=r"latin is not UTF-8 text \(byte 14\)"):
        read_lists(tmp_path / "latin")


def test_lists_need_none_of_the_load_tests_heavy_libraries() -> None:
    """The locustfile takes them into environments that have neither."""
    program = (
        "import sys, dear_tools.load.lists, dear_tools.load.mix\n"
        "print({'aiohttp', 'matplotlib', 'numpy', 'jinja2', 'typer', 'rich', 'httpx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
