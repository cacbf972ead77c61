"""Candidates, texts, runs and judgements from files, and one sentence for each that is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dear_tools.evaluation.collection import Candidate, Topic, checked, cut, digest
from dear_tools.evaluation.rankgpt import load_rankgpt
from dear_tools.evaluation.sources import Source, load_beir, load_texts, load_trec
from dear_tools.evaluation.trec import load_qrels, read_run, write_run
from dear_tools.exits import ToolError
from tests.conftest import ROOT

EXAMPLE = ROOT / "client" / "examples"
TOPIC = Topic("q1", "a query", (Candidate("d1", "one"), Candidate("d2", "two")))


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(act: Callable[[], object], folder: Path) -> str:
    """The sentence that something is refused with, without the folder."""
    with pytest.raises(ToolError) as error:
        act()
    return str(error.value).replace(f"{folder}/", "")


def hits(*ids: str, qid: Any = "q1", **more: Any) -> dict[str, Any]:
    return {
        "query": "a query",
        "hits": [{"content": f"text of {one}", "qid": qid, "docid": one, **more} for one in ids],
    }


class TestRankGPT:
    def test_the_order_of_the_hits_is_the_first_stages(self, tmp_path: Path) -> None:
        path = written(tmp_path, "c.json", json.dumps([hits("d2", "d1", qid=7), hits("d1", qid="8")]))
        topics, warnings = load_rankgpt(path)
        assert [(topic.id, topic.order) for topic in topics] == [("7", ("d2", "d1")), ("8", ("d1",))]
        assert topics[0].query == "a query"
        assert topics[0].candidates[0].text == "text of d2"
        assert warnings == ()

    @pytest.mark.parametrize(
        ("ranks", "scores"), [((2, 1), (2.0, 1.0)), ((1, 2), (1.0, 2.0))], ids=["ranks", "scores"]
    )
    def test_ranks_or_scores_of_another_order_are_named(
        self, tmp_path: Path, ranks: tuple[int, int], scores: tuple[float, float]
    ) -> None:
        entry = hits("d1", "d2")
        for hit, rank, score in zip(entry["hits"], ranks, scores, strict=True):
            hit |= {"rank": rank, "score": score}
        topics, warnings = load_rankgpt(written(tmp_path, "c.json", json.dumps([entry])))
        assert topics[0].order == ("d1", "d2")
        assert warnings == (
            "c.json: the order of the hits is taken, though ranks or scores say another "
            "(1 of 1 queries, the first is q1)",
        )

    def test_the_jsonl_of_rank_llm_is_read_too(self, tmp_path: Path) -> None:
        lines = [
            {
                "query": {"text": "a query", "qid": 3},
                "candidates": [
                    {"docid": "d1", "score": 2.0, "doc": {"contents": "one"}},
                    {"docid": 2, "score": 1.0, "doc": {"title": "T", "text": "two"}},
                ],
            },
            hits("d9", qid=4),
        ]
        path = written(tmp_path, "c.jsonl", "\n".join(map(json.dumps, lines)))
        topics, _ = load_rankgpt(path)
        assert topics[0] == Topic(
            "3", "a query", (Candidate("d1", "one"), Candidate("2", "Title: T Content: two"))
        )
        assert topics[1].order == ("d9",)

    @pytest.mark.parametrize(
        ("value", "sentence"),
        [
            ({"query": "x"}, 'c.json: a list of {"query", "hits"} is needed, as RankGPT writes it'),
            ([], "c.json has no queries"),
            ([{"query": "x"}], "c.json: entry 0, hits: field required"),
            (
                [{"query": "x", "hits": []}],
                "c.json: entry 0, hits: list should have at least 1 item after validation, not 0",
            ),
            ([hits("d1", content=None)], "c.json: entry 0, hits.0.content: input should be a valid string"),
            (
                [{"query": "x", "hits": [{"qid": "q1", "docid": "d1"}]}],
                "c.json: entry 0, hits.0.content: field required",
            ),
            ([hits("d1", qid=None)], 'c.json: entry 0: the hits need one "qid", the same in all of them'),
            ([hits("d1"), hits("d2")], "c.json: query q1 is there twice"),
            ([hits("d1", "d2", "d1")], "c.json: query q1 has document d1 twice"),
            ([{**hits("d1"), "query": " "}], "c.json: query q1 has no text"),
            (
                [hits("d 1")],
                "c.json: query q1: document id 'd 1' is empty or has a space, which no TREC file can hold",
            ),
            (
                [hits("d1", qid="q 1")],
                "c.json: query id 'q 1' is empty or has a space, which no TREC file can hold",
            ),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, tmp_path: Path, value: object, sentence: str) -> None:
        path = written(tmp_path, "c.json", json.dumps(value))
        assert refusal(lambda: load_rankgpt(path), tmp_path) == sentence

    def test_no_json_and_no_file_are_one_sentence(self, tmp_path: Path) -> None:
        torn = written(tmp_path, "c.json", '[{"query": "x"')
        line = written(tmp_path, "c.jsonl", json.dumps(hits("d1")) + '\n{"query"')
        latin = written(tmp_path, "l.json", b'["\xe9"]')
        assert refusal(lambda: load_rankgpt(torn), tmp_path).startswith("c.json: no JSON: ")
        assert refusal(lambda: load_rankgpt(line), tmp_path).startswith("c.jsonl:2: no JSON: ")
        assert refusal(lambda: load_rankgpt(latin), tmp_path) == "l.json is not UTF-8 text (byte 2)"
        missing = refusal(lambda: load_rankgpt(tmp_path / "n.json"), tmp_path)
        assert missing == "cannot read n.json: no such file or directory"


class TestTexts:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("t.tsv", "d1\tone\tand a tab\nd2\ttwo\r\n\n"),
            ("t.jsonl", '{"_id": "d1", "text": "one\\tand a tab"}\n{"id": "d2", "contents": "two"}\n'),
            ("bom.tsv", "\ufeffd1\tone\tand a tab\nd2\ttwo\n"),
        ],
    )
    def test_tsv_and_jsonl_give_the_texts_that_are_wanted(self, tmp_path: Path, name: str, text: str) -> None:
        path = written(tmp_path, name, text)
        assert load_texts(path, {"d1", "d2", "d3"}) == {"d1": "one\tand a tab", "d2": "two"}
        assert load_texts(path, {"d2"}) == {"d2": "two"}

    def test_a_title_goes_before_the_text_as_in_rankgpt(self, tmp_path: Path) -> None:
        line = {"_id": "d1", "title": "Aspirin", "text": "A trial", "metadata": {}}
        path = written(tmp_path, "t.jsonl", json.dumps(line))
        assert load_texts(path, {"d1"}) == {"d1": "Title: Aspirin Content: A trial"}

    def test_only_a_line_feed_ends_a_text(self, tmp_path: Path) -> None:
        path = written(tmp_path, "t.tsv", "d1\tone\u2028still one\x0bstill\nd2\ttwo\n")
        assert load_texts(path, {"d1", "d2"}) == {"d1": "one\u2028still one\x0bstill", "d2": "two"}

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("t.tsv", "d1\tone\nd2 two\n", "t.tsv:2: an id, a tab and a text are needed"),
            ("t.tsv", "d1\tone\nd1\ttwo\n", "t.tsv:2: d1 is there twice"),
            (
                "t.jsonl",
                '{"_id": "d1"}\n',
                't.jsonl:1: an object with "_id" (or "id") and "text" (or "contents") is needed',
            ),
            (
                "t.jsonl",
                "[]\n",
                't.jsonl:1: an object with "_id" (or "id") and "text" (or "contents") is needed',
            ),
            ("t.tsv", b"d1\t\xff\n", "t.tsv is not UTF-8 text"),
        ],
    )
    def test_what_is_wrong_names_file_and_line(
        self, tmp_path: Path, name: str, text: str, sentence: str
    ) -> None:
        path = written(tmp_path, name, text)
        assert refusal(lambda: load_texts(path, {"d1"}), tmp_path) == sentence


class TestRuns:
    def test_a_run_survives_the_round_trip(self, tmp_path: Path) -> None:
        orders = {"q2": ("d3", "d1"), "q1": ("d9",)}
        write_run(tmp_path / "out" / "run.trec", orders, "tag")
        assert (tmp_path / "out" / "run.trec").read_text() == (
            "q2 Q0 d3 1 2 tag\nq2 Q0 d1 2 1 tag\nq1 Q0 d9 1 1 tag\n"
        )
        run = read_run(tmp_path / "out" / "run.trec")
        assert run.orders == orders
        assert run.warnings == ()

    @given(st.dictionaries(st.integers(), st.lists(st.integers(), min_size=1, unique=True), min_size=1))
    def test_any_order_survives_it(
        self, tmp_path_factory: pytest.TempPathFactory, orders: dict[int, list[int]]
    ) -> None:
        named = {f"q{query}": tuple(f"d{one}" for one in order) for query, order in orders.items()}
        path = tmp_path_factory.getbasetemp() / "any.trec"
        write_run(path, named, "tag")
        assert read_run(path).orders == named

    def test_the_scores_decide_and_not_the_lines(self, tmp_path: Path) -> None:
        path = written(tmp_path, "r.trec", "q1 Q0 d1 2 1.5 t\nq1 Q0 d2 1 3e0 t\n")
        run = read_run(path)
        assert run.orders == {"q1": ("d2", "d1")}
        assert run.warnings == ()

    def test_a_tie_goes_by_the_rank_column_and_is_told(self, tmp_path: Path) -> None:
        lines = "q1 Q0 d2 2 1 t\nq1 Q0 d1 1 1 t\nq2 Q0 a 1 2 t\nq2 Q0 b 2 2 t\nq2 Q0 c 3 2 t\n"
        run = read_run(written(tmp_path, "r.trec", lines))
        assert run.orders == {"q1": ("d1", "d2"), "q2": ("a", "b", "c")}
        assert run.warnings == (
            "r.trec: query q1 gives d1 and d2 the same score; the rank column puts d1 first, "
            "and trec_eval would put d2 first (3 ties in 2 queries)",
        )

    def test_a_tie_without_ranks_goes_by_the_file(self, tmp_path: Path) -> None:
        run = read_run(written(tmp_path, "r.trec", "q1 Q0 d2 0 1 t\nq1 Q0 d1 0 1 t\n"))
        assert run.orders == {"q1": ("d2", "d1")}
        assert run.warnings == (
            "r.trec: query q1 gives d2 and d1 the same score; the file's order puts d2 first, "
            "and trec_eval would put d2 first (1 tie in 1 query)",
        )

    def test_trec_eval_does_with_ties_what_the_warning_says(self) -> None:
        run = {"q1": {"d1": 1.0, "d2": 1.0}}
        assert ir_measures.calc_aggregate([ir_measures.nDCG @ 1], {"q1": {"d2": 1}}, run) == {
            ir_measures.nDCG @ 1: 1.0
        }

    def test_ranks_that_contradict_the_scores_are_told(self, tmp_path: Path) -> None:
        run = read_run(written(tmp_path, "r.trec", "q1 Q0 d1 1 1 t\nq1 Q0 d2 2 5 t\n"))
        assert run.orders == {"q1": ("d2", "d1")}
        assert run.warnings == (
            "r.trec: query q1 ranks d1 before d2 though it scores lower; the scores decide, as in trec_eval",
        )

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "r.trec has no lines"),
            (
                "q1 Q0 d1 1 2.0\n",
                "r.trec:1: a line of a run has 6 fields (query Q0 document rank score tag), this one 5",
            ),
            (
                "q1 Q0 d1 1 2 t\nq1 Q0 d 2 2 1 t\n",
                "r.trec:2: a line of a run has 6 fields (query Q0 document rank score tag), this one 7",
            ),
            ("q1 Q0 d1 first 2 t\n", "r.trec:1: rank 'first' or score '2' is no number"),
            ("q1 Q0 d1 1 high t\n", "r.trec:1: rank '1' or score 'high' is no number"),
            ("q1 Q0 d1 1 nan t\n", "r.trec:1: score 'nan' is not finite"),
            (
                "q1 Q0 d1 1 2 t\n\nq1 Q0 d1 2 1 t\n",
                "r.trec:3: query q1 has document d1 twice, the first time on line 1",
            ),
        ],
    )
    def test_what_is_wrong_names_file_and_line(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = written(tmp_path, "r.trec", text)
        assert refusal(lambda: read_run(path), tmp_path) == sentence

    @pytest.mark.parametrize("document", ["d 1", "", "d\t1", " d1"])
    def test_an_id_that_would_break_the_columns_is_not_written(self, tmp_path: Path, document: str) -> None:
        with pytest.raises(ToolError, match="is empty or has a space, which no TREC file can hold"):
            write_run(tmp_path / "r.trec", {"q1": [document]}, "t")
        assert list(tmp_path.iterdir()) == []


class TestQrels:
    def test_both_forms_are_read(self, tmp_path: Path) -> None:
        trec = written(tmp_path, "q.txt", "q1 0 d1 2\nq1 Q0 d2 0\nq2\t0\td1\t-1\n")
        beir = written(tmp_path, "q.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\n")
        assert load_qrels(trec) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
        assert load_qrels(beir) == {"q1": {"d1": 2}}

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", "q.txt has no judgements"),
            ("query-id\tcorpus-id\tscore\n", "q.txt has no judgements"),
            ("q1 d1 2\n", "q.txt:1: a judgement is 'query 0 document grade', this line has 3 fields"),
            (
                "query-id\tcorpus-id\tscore\nq1\t0\td1\t2\n",
                "q.txt:2: a judgement is 'query document grade', this line has 4 fields",
            ),
            ("q1 0 d1 2\nq1 0 d2 1.5\n", "q.txt:2: grade '1.5' is no whole number"),
            ("q1 0 d1 2\nq1 0 d1 1\n", "q.txt:2: query q1 has two grades for document d1"),
        ],
    )
    def test_what_is_wrong_names_file_and_line(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = written(tmp_path, "q.txt", text)
        assert refusal(lambda: load_qrels(path), tmp_path) == sentence

    def test_the_same_grade_twice_is_no_contradiction(self, tmp_path: Path) -> None:
        assert load_qrels(written(tmp_path, "q.txt", "q1 0 d1 2\nq1 0 d1 2\n")) == {"q1": {"d1": 2}}


class TestTrecAndBeir:
    def test_all_forms_of_the_example_are_the_same_topics(self) -> None:
        run = EXAMPLE / "bm25.trec"
        from_json, _ = load_rankgpt(EXAMPLE / "candidates.json")
        from_run, _ = load_trec(run, EXAMPLE / "queries.tsv", EXAMPLE / "corpus.tsv", 100)
        from_beir, qrels, _ = load_beir(EXAMPLE / "beir", run, 100)
        assert from_json == from_run == from_beir
        assert qrels == load_qrels(EXAMPLE / "qrels.txt")
        assert digest(from_json) == digest(from_beir)

    def test_texts_are_needed_for_what_is_used_only(self, tmp_path: Path) -> None:
        corpus = written(tmp_path, "c.tsv", (EXAMPLE / "corpus.tsv").read_text().replace("d5\t", "x5\t"))
        topics, _ = load_trec(EXAMPLE / "bm25.trec", EXAMPLE / "queries.tsv", corpus, 4)
        assert topics[0].order == ("d1", "d2", "d3", "d4")

    def test_a_document_without_text_is_named(self, tmp_path: Path) -> None:
        corpus = written(tmp_path, "c.tsv", "d1\tone\nd2\ttwo\nd3\tthree\n")
        run = EXAMPLE / "bm25.trec"
        sentence = refusal(lambda: load_trec(run, EXAMPLE / "queries.tsv", corpus, 100), tmp_path)
        assert sentence == "c.tsv has no text for documents of bm25.trec: d4, d5, d6 and 14 more"

    def test_a_query_without_text_is_named(self, tmp_path: Path) -> None:
        queries = written(tmp_path, "q.tsv", "q1\tone\nq3\tthree\nq4\tfour\n")
        run = EXAMPLE / "bm25.trec"
        sentence = refusal(lambda: load_trec(run, queries, EXAMPLE / "corpus.tsv", 100), tmp_path)
        assert sentence == "q.tsv has no text for queries of bm25.trec: q2"

    def test_a_folder_that_is_none_of_beirs_is_named(self, tmp_path: Path) -> None:
        written(tmp_path, "queries.jsonl", "{}")
        with pytest.raises(ToolError, match=r"is no BEIR folder: it has no corpus\.jsonl$"):
            load_beir(tmp_path, EXAMPLE / "bm25.trec", 100)


class TestTopics:
    def test_a_topic_without_candidates_is_refused(self) -> None:
        with pytest.raises(ToolError, match=r"^here: query q1 has no candidates$"):
            checked([Topic("q1", "x", ())], "here")

    def test_the_digest_is_of_everything_that_is_ranked(self) -> None:
        others = [
            Topic("q2", "a query", TOPIC.candidates),
            Topic("q1", "another", TOPIC.candidates),
            Topic("q1", "a query", TOPIC.candidates[::-1]),
            Topic("q1", "a query", (Candidate("d1", "one"), Candidate("d2", "2"))),
            *cut([TOPIC], 1),
        ]
        assert len({digest([topic]) for topic in [TOPIC, *others]}) == len(others) + 1
        assert re.fullmatch("sha256:[0-9a-f]{64}", digest([TOPIC]))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (Source(), "give --candidates, --run, --beir, --irds or --preset"),
        (Source(candidates=Path("c"), beir=Path("b")), "--candidates and --beir cannot go together"),
        (Source(beir=Path("b"), irds="x"), "--beir and --irds cannot go together"),
        (
            Source(candidates=Path("c"), run=Path("r"), qrels=Path("q")),
            "--candidates and --run cannot go together; to compare two runs, use --against",
        ),
        (Source(beir=Path("b")), "--beir needs --run, the first stage's candidates"),
        (
            Source(beir=Path("b"), run=Path("r"), corpus=Path("c")),
            "--queries and --corpus go with --run, not with --beir",
        ),
        (Source(run=Path("r"), qrels=Path("q")), "--run needs --queries and --corpus, the texts"),
        (Source(run=Path("r"), queries=Path("q"), corpus=Path("c")), "--qrels is missing"),
        (Source(candidates=Path("c")), "--qrels is missing"),
        (Source(candidates=Path("c"), qrels=Path("q")), None),
        (Source(irds="x"), None),
        (Source(beir=Path("b"), run=Path("r")), None),
    ],
)
def test_a_combination_of_options_that_cannot_work_is_named(source: Source, problem: str | None) -> None:
    assert source.problem() == problem
