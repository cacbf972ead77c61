"""``dear rerank``, against the real routes in process."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from typer.testing import CliRunner

from dear_client import Client, ClientError
from dear_serving.cli.main import app
from dear_serving.gateway.state import GatewayState
from dear_tools.exits import ToolError
from dear_tools.rerank import command
from tests.conftest import InProcess

PASSAGES = ["Garden furniture", "A parking [permit]", "Prices"]
"""The fake engine ranks from the last to the first."""


@pytest.fixture(autouse=True)
def in_process(gateway: GatewayState, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reaches the routes of this process."""
    monkeypatch.delenv("DEAR_BASE_URL", raising=False)
    monkeypatch.delenv("DEAR_API_KEY", raising=False)
    monkeypatch.setattr(command, "Client", partial(Client, transport=InProcess(gateway)))


def run(*arguments: str, text: str | bytes | None = None, code: int = 0) -> tuple[str, str]:
    """What the command prints on stdout and stderr."""
    result = CliRunner().invoke(app, ["rerank", *arguments], input=text, env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, click.unstyle(result.stderr)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def order(result: dict[str, Any]) -> list[int]:
    return [one["index"] for one in result["results"]]


def request(**fields: object) -> str:
    return json.dumps({"query": "permit", "documents": PASSAGES} | fields) + "\n"


def test_passages_are_shown_best_first() -> None:
    shown, _ = run("permit", *PASSAGES)
    assert [line.split(maxsplit=2)[2].strip() for line in shown.splitlines()[1:]] == PASSAGES[::-1]


@pytest.mark.parametrize("source", ["arguments", "file", "stdin", "a dash"])
def test_passages_come_from_arguments_a_file_or_stdin(source: str, tmp_path: Path) -> None:
    text = "\n".join(["", *PASSAGES, "  "])
    (tmp_path / "passages.txt").write_text(text)
    given: dict[str, tuple[list[str], str | None]] = {
        "arguments": (PASSAGES, None),
        "file": (["--file", str(tmp_path / "passages.txt")], None),
        "stdin": ([], text),
        "a dash": (["--file", "-"], text),
    }
    arguments, piped = given[source]
    shown, _ = run("permit", *arguments, "--json", text=piped)
    assert order(json.loads(shown)) == [2, 1, 0]
    assert json.loads(shown)["results"][0]["document"] == "Prices"


def test_options_reach_the_server() -> None:
    shown, _ = run("permit", *PASSAGES, "--json", "--top-n", "1", "--model", "legal", "--deadline-s", "5")
    assert order(json.loads(shown)) == [2]
    assert json.loads(shown)["model"] == "legal"
    with pytest.raises(ClientError, match=r"dear\.step: 7 is over the window of 2"):
        run("permit", *PASSAGES, "--window-size", "2", "--step", "7")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a query is needed, or --jsonl, or --run"),
        (["q", "a", "--file", "x"], "passages come as arguments or from --file, not both"),
        (["q", "--jsonl", "x"], "three ways to give lists; take one"),
        (["--jsonl", "x", "--run", "y"], "three ways to give lists; take one"),
        (["--run", "y", "--queries", "z"], "--run, --queries and --corpus go together"),
        (["q", "a", "--output", "x"], "goes with --jsonl or --run"),
        (["q", "a", "--strategy", "best"], "'best' is not one of 'auto'"),
        (["q"], "there are no passages"),
        (["q", "a", "--top-n", "0"], "--top-n"),
    ],
)
def test_a_wrong_call_is_a_usage_error(arguments: list[str], said: str) -> None:
    _, errors = run(*arguments, text="", code=2)
    assert said in " ".join(errors.replace("│", " ").split())


def test_lists_of_jsonl_come_back_in_their_order_with_their_metadata(tmp_path: Path) -> None:
    documents = [{"text": "a", "url": 1}, {"text": "b", "url": 2}]
    text = request(id="x", documents=documents) + "\n" + request(top_n=1, model="legal")
    shown, errors = run("--jsonl", "-", text=text)
    first, second = lines(shown)
    assert (first["line"], first["id"], order(first)) == (1, "x", [1, 0])
    assert [one["document"] for one in first["results"]] == documents[::-1]
    assert (second["line"], second["model"], order(second)) == (3, "legal", [2])
    assert errors == ""
    file = tmp_path / "lists.jsonl"
    file.write_text(text)
    assert run("--jsonl", str(file), "--output", str(tmp_path / "new" / "out.jsonl"))[0] == ""
    written = lines((tmp_path / "new" / "out.jsonl").read_text())
    assert [order(one) for one in written] == [[1, 0], [2]]


def test_options_hold_for_lists_that_say_nothing_else() -> None:
    shown, _ = run("--jsonl", "-", "--top-n", "1", text=request() + request(top_n=2))
    assert [order(one) for one in lines(shown)] == [[2], [2, 1]]


def test_a_malformed_line_is_named_and_the_rest_is_ranked(tmp_path: Path) -> None:
    bad = {
        3417: (b'{"query": "x", \n', "this is not valid JSON: expecting property name"),
        3418: (b'{"query": "\xff"}\n', "this is not UTF-8 text"),
        3419: (b"[1]\n", "an object with query and documents is needed"),
        3420: (b'{"query": "x"}\n', "the request has no 'documents'"),
        3421: (request(documents=[1]).encode(), "documents.0: a text or an object is needed"),
        3422: (request(topn=1).encode(), "there is no option 'topn'; do you mean 'top_n'?"),
        3423: (request(documents=[]).encode(), "documents: at least one is needed"),
        3424: (request(model="none").encode(), "there is no model 'none'"),
    }
    good = request(documents=["a", "b"]).encode()
    file, out = tmp_path / "lists.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(b"\n" * 3410 + b"".join(bad.get(n, (good, ""))[0] for n in range(3411, 3427)))
    _, errors = run("--jsonl", str(file), "--output", str(out), code=3)
    found = {one["line"]: one for one in lines(out.read_text())}
    assert list(found) == list(range(3411, 3427))
    for number, one in found.items():
        if number in bad:
            assert one["error"].startswith(bad[number][1])
            assert f"lists.jsonl, line {number}: {one['error']}" in errors
        else:
            assert order(one) == [1, 0]
    assert len(errors.splitlines()) == len(bad)


def test_where_nothing_can_work_one_sentence_ends_it_and_nothing_is_written(
    tmp_path: Path, with_tenants: GatewayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Client", partial(Client, transport=InProcess(with_tenants)))
    out = tmp_path / "here" / "out.jsonl"
    out.parent.mkdir()
    out.write_text("before")
    with pytest.raises(ClientError, match="key"):
        run("--jsonl", "-", "--output", str(out), text=request() * 3)
    assert out.read_text() == "before"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "none"], "there is no model 'none'"),
        (["--window-size", "2", "--step", "7"], r"dear\.step: 7 is over the window of 2"),
    ],
)
def test_an_option_that_no_list_can_be_ranked_with_ends_it(arguments: list[str], said: str) -> None:
    with pytest.raises(ClientError, match=said):
        run("--jsonl", "-", *arguments, text=request() * 3)


def test_a_lists_own_option_ends_only_that_list() -> None:
    shown, errors = run(
        "--jsonl", "-", text=request(model="none") + request(window_size=2, step=7) + request(), code=3
    )
    assert ["error" in one for one in lines(shown)] == [True, True, False]
    assert len(errors.splitlines()) == 2


@pytest.fixture
def trec(tmp_path: Path) -> list[str]:
    """The arguments of a run over two queries."""
    (tmp_path / "bm25.trec").write_text(
        "".join(
            f"{query} Q0 d{rank} {rank} {10 - rank} bm25\n" for query in ("q1", "q2") for rank in (1, 2, 3)
        )
    )
    (tmp_path / "queries.tsv").write_text("q1\tpermit\nq2\tprices\n")
    (tmp_path / "corpus.tsv").write_text("".join(f"d{n}\t{text}\n" for n, text in enumerate(PASSAGES, 1)))
    names = {"--run": "bm25.trec", "--queries": "queries.tsv", "--corpus": "corpus.tsv"}
    return [word for name, file in names.items() for word in (name, str(tmp_path / file))]


def test_a_run_is_reranked_to_a_run(trec: list[str], tmp_path: Path) -> None:
    shown, _ = run(*trec)
    wanted = [
        f"{query} Q0 d{4 - rank} {rank} {4 - rank} dear" for query in ("q1", "q2") for rank in (1, 2, 3)
    ]
    assert shown.splitlines() == wanted
    assert run(*trec, "--output", str(tmp_path / "dear.trec"))[0] == ""
    assert (tmp_path / "dear.trec").read_text().splitlines() == wanted


def test_of_a_run_as_many_documents_are_ranked_as_are_asked_for(trec: list[str]) -> None:
    shown, _ = run(*trec, "--depth", "2", "--top-n", "1")
    assert shown == "q1 Q0 d2 1 1 dear\nq2 Q0 d2 1 1 dear\n"


def test_a_query_that_fails_is_named_and_left_out(trec: list[str], tmp_path: Path) -> None:
    long = "word " * 250_000
    (tmp_path / "queries.tsv").write_text(f"q1\t{long}\nq2\tprices\n")
    shown, errors = run(*trec, code=3)
    assert {line.split()[0] for line in shown.splitlines()} == {"q2"}
    assert errors.startswith("bm25.trec, query q1: query: 1250000 characters are over the limit")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jsonl", "none.jsonl"], "cannot read none.jsonl: no such file or directory"),
        (["q", "--file", "none.txt"], "cannot read none.txt: no such file or directory"),
        (["--jsonl", "-"], "stdin has no lists"),
        (["--jsonl", "-", "--output", "/proc/x/y"], "cannot write /proc/x/y: no such file or directory"),
    ],
)
def test_files_that_cannot_be_used_are_named(arguments: list[str], said: str) -> None:
    with pytest.raises(ToolError, match=said):
        run(*arguments, text="")
