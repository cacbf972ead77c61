"""``dear eval`` as a user meets it: a server that behaves and one that does not, ends and new starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dear_tools.evaluation.trec import read_run
from tests.tools.evaluation.conftest import EXAMPLE, Behaviour, Serving, Talk, dear_eval

pytestmark = pytest.mark.integration

PROGRAM = """
import typer
from dear_tools.evaluation.command import evaluate
app = typer.Typer()
app.command("eval")(evaluate)
app()
"""
QUERIES = ["parking permit for residents", "notice period for tenants"]
QUERIES += ["does aspirin prevent stroke", "library opening hours"]


BY_WORDS = ["69.79", "95.25", "+25.46"]
"""The example's nDCG@10, by hand: before, by the words shared (1, 1, 0.860 and 0.950), and the difference."""


def cells(out: str, first: str) -> list[str]:
    """The words after the first one, of the first line that begins with it."""
    return next(line.split()[1:] for line in out.splitlines() if line.split()[:1] == [first])


def log_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()[1:]]


class TestGoodEnds:
    def test_all_is_ranked_measured_and_written(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        ended = dear_eval(*example, "--url", server.url, "--model", "words", "--out", tmp_path / "out")
        assert (ended.code, ended.said) == (0, [])
        assert sorted(server.queries) == sorted(QUERIES)
        assert {body["model"] for body in server.asked} == {"words"}
        assert cells(ended.out, "nDCG@10")[:3] == BY_WORDS
        assert "valid orders: 4 of 4 (100.00%)" in ended.out
        assert "calls: 4, 4 windows" in ended.out
        assert "tokens: 400 read, 20 written, 105 a query" in ended.out
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["answers.jsonl", "report.json", "report.md", "run.trec"]
        run = read_run(tmp_path / "out" / "run.trec")
        assert run.orders["q1"] == ("d3", "d5", "d2", "d1", "d4")
        assert run.warnings == ()
        assert "| nDCG@10 | 69.79 | 95.25 | +25.46 |" in (tmp_path / "out" / "report.md").read_text()

    def test_json_is_the_report_and_nothing_else(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        ended = dear_eval(*example, "--url", server.url, "--out", tmp_path, "--json")
        assert ended.out == (tmp_path / "report.json").read_text()
        assert json.loads(ended.out)["orders"]["valid"] == 4

    def test_options_reach_the_server(self, server: Serving, example: list[object], tmp_path: Path) -> None:
        options = ["--depth", 4, "--top-n", 2, "--strategy", "sliding", "--window-size", 3, "--step", 1]
        options += ["--scoring", "generate", "--passes", 2, "--reasoning"]
        ended = dear_eval(*example, "--url", server.url, "--out", tmp_path, *options)
        assert ended.code == 0
        body = server.asked[0]
        assert len(body["documents"]) == 4
        assert body["top_n"] == 2
        assert body["dear"] == {
            "strategy": "sliding",
            "window_size": 3,
            "step": 1,
            "scoring": "generate",
            "passes": 2,
            "reasoning": True,
        }
        assert "R@4" in ended.out
        assert read_run(tmp_path / "run.trec").orders["q1"] == ("d3", "d2", "d1", "d4")

    def test_a_run_with_texts_and_a_beir_folder_give_the_same(self, server: Serving, tmp_path: Path) -> None:
        run, common = EXAMPLE / "bm25.trec", ["--url", server.url, "--json", "--out"]
        files = ["--queries", EXAMPLE / "queries.tsv", "--corpus", EXAMPLE / "corpus.tsv"]
        one = dear_eval("--run", run, *files, "--qrels", EXAMPLE / "qrels.txt", *common, tmp_path / "a")
        two = dear_eval("--beir", EXAMPLE / "beir", "--run", run, *common, tmp_path / "b")
        assert json.loads(one.out)["rows"] == json.loads(two.out)["rows"]
        assert json.loads(one.out)["name"] == "bm25"
        assert json.loads(two.out)["name"] == "beir"

    def test_two_runs_are_compared(self, server: Serving, example: list[object], tmp_path: Path) -> None:
        dear_eval(*example, "--ranker", "oracle", "--out", tmp_path / "best")
        against = tmp_path / "best" / "run.trec"
        ended = dear_eval(*example, "--url", server.url, "--against", against, "--out", tmp_path / "out")
        assert ended.code == 0
        assert cells(ended.out, "measure")[:5] == ["first", "stage", "run.trec", "this", "run"]
        assert cells(ended.out, "nDCG@10")[:4] == ["69.79", "100.00", "95.25", "-4.75"]

    def test_a_run_that_is_there_is_measured_without_a_server(
        self, example: list[object], tmp_path: Path
    ) -> None:
        ended = dear_eval(*example, "--ranker", EXAMPLE / "bm25.trec", "--out", tmp_path)
        assert cells(ended.out, "nDCG@10")[:3] == ["69.79", "69.79", "+0.00"]
        assert "orders as the first stage had them: 4 of 4 (100.00%)" in ended.out
        assert "calls:" not in ended.out

    def test_a_run_to_compare_with_that_lacks_queries_counts_zero_there_and_is_told(
        self, example: list[object], tmp_path: Path
    ) -> None:
        less = tmp_path / "less.trec"
        less.write_text("q1 Q0 d3 1 2 t\n")
        ended = dear_eval(
            *example, "--ranker", "oracle", "--against", less, "--out", tmp_path / "o", "--json"
        )
        assert ended.said == ["dear: less.trec lacks 3 queries, which count as zero there: q2, q3, q4"]
        row = json.loads(ended.out)["rows"][0]
        assert (row["comparison"]["before"], row["comparison"]["after"]) == (0.25, 1.0)

    def test_measures_may_be_chosen(self, example: list[object], tmp_path: Path) -> None:
        chosen = ["--measures", "P@1 RR", "--measures", "AP", "--relevant-from", 2]
        ended = dear_eval(*example, "--ranker", "oracle", *chosen, "--out", tmp_path, "--json")
        assert [row["measure"] for row in json.loads(ended.out)["rows"]] == [
            "P(rel=2)@1",
            "RR(rel=2)",
            "AP(rel=2)",
        ]

    def test_the_folder_is_named_after_the_candidates(
        self, example: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        dear_eval(*example, "--ranker", "oracle")
        assert (tmp_path / "eval-candidates" / "report.json").is_file()


class TestNewStarts:
    def test_finished_queries_are_not_asked_again(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        first = dear_eval(*example, "--url", server.url, "--limit", 2, "--out", tmp_path)
        assert first.said == ["dear: only the first 2 of 4 queries: no mean here is a collection's"]
        assert server.queries == QUERIES[:2] or server.queries == QUERIES[1::-1]
        server.asked.clear()
        second = dear_eval(*example, "--url", server.url, "--out", tmp_path)
        assert sorted(server.queries) == sorted(QUERIES[2:])
        assert cells(second.out, "nDCG@10")[:3] == BY_WORDS
        assert "from start to end" in first.out
        assert "from start to end" not in second.out
        server.asked.clear()
        third = dear_eval(*example, "--url", server.url, "--out", tmp_path)
        assert server.asked == []
        assert third.out == second.out

    def test_failed_queries_are_tried_again_and_means_wait_for_them(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        def stumble(talk: Talk) -> None:
            if "aspirin" in talk.body["query"]:
                talk.refuse(500, "out of luck")
            else:
                talk.rank()

        server.behaviour = stumble
        first = dear_eval(*example, "--url", server.url, "--concurrency", 1, "--out", tmp_path)
        assert first.code == 3
        sentence = (
            "1 of 4 queries failed, so there are no means; the same command tries them again "
            "(query q3: InternalError: out of luck)"
        )
        assert first.said == [f"dear: {sentence}"]
        assert "nDCG" not in first.out
        assert "valid orders: 3 of 3" in first.out
        assert (tmp_path / "report.md").read_text().splitlines()[2] == f"**No means:** {sentence}."
        assert not (tmp_path / "run.trec").exists()
        server.behaviour = Talk.rank
        server.asked.clear()
        second = dear_eval(*example, "--url", server.url, "--out", tmp_path)
        assert server.queries == ["does aspirin prevent stroke"]
        assert second.code == 0
        assert cells(second.out, "nDCG@10")[:3] == BY_WORDS
        assert "No means" not in (tmp_path / "report.md").read_text()

    def test_other_settings_are_refused_and_restart_takes_them(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        dear_eval(*example, "--url", server.url, "--out", tmp_path)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        refused = dear_eval(*example, "--url", server.url, "--depth", 3, "--out", tmp_path)
        assert refused.code == 1
        assert len(refused.said) == 1
        assert refused.said[0].endswith(
            "depth is 5 there and 3 here; choose another --out, or --restart to begin anew"
        )
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        server.asked.clear()
        again = dear_eval(*example, "--url", server.url, "--depth", 3, "--out", tmp_path, "--restart")
        assert again.code == 0
        assert len(server.asked) == 4
        assert len(log_lines(tmp_path)) == 4

    def test_another_address_is_no_other_setting(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        dear_eval(*example, "--url", f"{server.url}/v2", "--out", tmp_path)
        assert dear_eval(*example, "--url", server.url, "--out", tmp_path).code == 0
        assert len(server.asked) == 4

    @pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
    def test_a_start_that_was_stopped_goes_on_where_it_was(
        self, server: Serving, example: list[object], tmp_path: Path, ending: signal.Signals
    ) -> None:
        def slow_then_never(talk: Talk) -> None:
            if len(server.asked) <= 2:
                talk.rank()
            else:
                server.over.wait()

        server.behaviour = slow_then_never
        arguments = [*example, "--url", server.url, "--concurrency", 1, "--out", tmp_path]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            # What a script starts in the background ignores Ctrl-C, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline_s = time.monotonic() + 60
        while len(server.asked) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(ending)
        out, said = process.communicate(timeout=60)
        assert len(log_lines(tmp_path)) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
        assert out == ""
        if ending == signal.SIGINT:
            assert process.returncode == 130
            assert said == (
                "dear: stopped: 2 of 4 queries are ranked, and the same command goes on from there\n"
            )
        server.over.set()
        server.behaviour = Talk.rank
        server.asked.clear()
        ended = dear_eval(*example, "--url", server.url, "--out", tmp_path)
        assert sorted(server.queries) == sorted(QUERIES[2:])
        assert cells(ended.out, "nDCG@10")[:3] == BY_WORDS


def hang(talk: Talk) -> None:
    talk.server.over.wait()


def cut(talk: Talk) -> None:
    talk.send_response(200)
    talk.send_header("content-type", "application/json")
    talk.send_header("content-length", "1000")
    talk.end_headers()
    talk.wfile.write(b'{"results": [')
    talk.wfile.flush()
    talk.close_connection = True


class TestBadServers:
    @pytest.mark.parametrize(
        ("behaviour", "options", "sentence"),
        [
            (
                lambda talk: talk.answer(200, b"<html><title>Router</title>", "text/html"),
                [],
                "answered HTTP 200 with text/html instead of JSON",
            ),
            (cut, [], "half-way: 13 of 1000 bytes of the reply came"),
            (hang, ["--timeout", 0.3], "no answer from http://127.0.0.1:"),
            (lambda talk: talk.refuse(401, "the key has expired"), [], "the key has expired"),
            (lambda talk: talk.refuse(404, "there is no route", "route_not_found"), [], "there is no route"),
            (
                lambda talk: talk.refuse(404, "there is no model 'x'", "model_not_found"),
                [],
                "there is no model 'x'",
            ),
        ],
        ids=["html", "cut", "hang", "key", "url", "model"],
    )
    def test_each_is_one_sentence_and_leaves_nothing(
        self,
        server: Serving,
        example: list[object],
        tmp_path: Path,
        behaviour: Behaviour,
        options: list[object],
        sentence: str,
    ) -> None:
        server.behaviour = behaviour
        out = tmp_path / "out"
        ended = dear_eval(*example, "--url", server.url, "--out", out, "--concurrency", 2, *options)
        assert (ended.code, ended.out) == (1, "")
        (said,) = ended.said
        assert said.startswith("dear: ")
        assert sentence in said
        assert not out.exists()

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("http://127.0.0.1:9", "no server answers at http://127.0.0.1:9"),
            ("localhost:8000", "'localhost:8000' is no URL"),
        ],
    )
    def test_a_server_that_is_down_or_none_is_one_sentence(
        self, example: list[object], tmp_path: Path, url: str, sentence: str
    ) -> None:
        ended = dear_eval(*example, "--url", url, "--out", tmp_path / "out")
        assert (ended.code, ended.out, len(ended.said)) == (1, "", 1)
        assert sentence in ended.said[0]
        assert not (tmp_path / "out").exists()

    def test_a_server_that_goes_away_keeps_what_there_is(
        self, server: Serving, example: list[object], tmp_path: Path
    ) -> None:
        def once(talk: Talk) -> None:
            if len(server.asked) > 2:
                talk.refuse(401, "the key has expired")
            else:
                talk.rank()

        server.behaviour = once
        ended = dear_eval(*example, "--url", server.url, "--concurrency", 1, "--out", tmp_path)
        assert ended.code == 1
        assert ended.said == [
            "dear: the key has expired; 2 of 4 queries are ranked, and the same command goes on from there"
        ]
        assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]
        assert len(log_lines(tmp_path)) == 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "give --candidates, --run, --beir, --irds or --preset"),
            (["--candidates", "c.json"], "--qrels is missing"),
            (["--preset", "dl19", "--candidates", "c.json"], "--preset brings its own files, from --data"),
        ],
    )
    def test_a_combination_that_cannot_work_is_a_usage_error(
        self, arguments: list[str], sentence: str
    ) -> None:
        ended = dear_eval(*arguments)
        assert ended.code == 2
        assert sentence in " ".join(" ".join(ended.said).split())

    def test_qrels_of_other_queries_are_one_sentence(self, tmp_path: Path) -> None:
        qrels = tmp_path / "other.txt"
        qrels.write_text("264014 0 d1 1\n")
        ended = dear_eval("--candidates", EXAMPLE / "candidates.json", "--qrels", qrels, "--ranker", "oracle")
        assert ended.said == [
            "dear: none of the 4 queries of candidates has judgements: "
            "ranked q1, q2, q3 and 1 more; judged 264014"
        ]

    def test_qrels_without_candidates_and_candidates_without_qrels_are_told(self, tmp_path: Path) -> None:
        lines = [line for line in (EXAMPLE / "qrels.txt").read_text().splitlines() if "q4" not in line]
        qrels = tmp_path / "q.txt"
        qrels.write_text("\n".join([*lines, "q7 0 d1 1"]) + "\n")
        ended = dear_eval(
            *("--candidates", EXAMPLE / "candidates.json", "--qrels", qrels),
            *("--ranker", "oracle", "--out", tmp_path / "out"),
        )
        assert ended.said == [
            "dear: 1 query of candidates without judgements are left out: q4",
            "dear: 1 query judged and without candidates count as zero, as in the published figures "
            "(trec_eval -c): q7",
        ]
        assert cells(ended.out, "nDCG@1")[:2] == ["0.00", "75.00"]

    def test_a_run_with_ties_is_told(self, tmp_path: Path) -> None:
        run = tmp_path / "ties.trec"
        run.write_text((EXAMPLE / "bm25.trec").read_text().replace("q1 Q0 d2 2 9", "q1 Q0 d2 2 10"))
        ended = dear_eval(
            "--beir", EXAMPLE / "beir", "--run", run, "--ranker", "oracle", "--out", tmp_path / "o"
        )
        assert ended.said == [
            "dear: ties.trec: query q1 gives d1 and d2 the same score; the rank column puts d1 first, "
            "and trec_eval would put d2 first (1 tie in 1 query)"
        ]
        assert "ties.trec: query q1 gives d1 and d2" in (tmp_path / "o" / "report.md").read_text()

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (
                ["--measures", "nDGC@10"],
                "'nDGC@10' is no measure of ir-measures, such as nDCG@10, AP or R@100",
            ),
            (["--ranker", "gone.trec"], "cannot read gone.trec: no such file or directory"),
            (["--against", "gone.trec"], "cannot read gone.trec: no such file or directory"),
        ],
    )
    def test_what_is_wrong_comes_out_before_anything_is_asked(
        self, server: Serving, example: list[object], tmp_path: Path, options: list[str], sentence: str
    ) -> None:
        ended = dear_eval(*example, "--url", server.url, "--out", tmp_path / "out", *options)
        assert (ended.code, ended.said) == (1, [f"dear: {sentence}"])
        assert server.asked == []
        assert not (tmp_path / "out").exists()

    def test_a_package_that_is_not_there_is_named(
        self, example: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert dear_eval(*example).said == ["dear: dear eval needs ir-measures: pip install ir-measures"]
