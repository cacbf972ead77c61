"""The command: what it asks of its options, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks.trivial_server import Behaviour
from dear_serving.process.background import free_port
from dear_tools.exits import ToolError
from dear_tools.load.command import load
from tests.conftest import ROOT
from tests.tools.load.servers import (
    Asked,
    Respond,
    always,
    models,
    ranking,
    ranks,
    refusal,
    reply,
    scripted,
    trivial,
)

KEY = "dear_0123456789ab_a-very-secret-key"
NAMES = ["report.html", "report.json", "report.md"]

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(load)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("clean_environment")]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server and no key but those of a test."""
    for name in ("DEAR_BASE_URL", "DEAR_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


Dear = Callable[..., Result]


@pytest.fixture
def dear(tmp_path: Path) -> Dear:
    """``dear load`` with its report in a folder of the test's."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])

    return run


@pytest.fixture
def report(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """The report that was written, all of it."""

    def read() -> dict[str, Any]:
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES
        found: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
        return found

    return read


def out_of(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "out").iterdir())


def nothing_written(tmp_path: Path) -> bool:
    return not (tmp_path / "out").exists()


QUICK = ("--requests", "20", "--warmup", "0", "--passages", "4", "--words", "5")


# --- what it prints and how it ends -----------------------------------------------------------------------


def test_a_run_needs_no_arguments_but_a_server(
    dear: Dear, report: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with trivial() as url:
        monkeypatch.setenv("DEAR_BASE_URL", url)
        done = dear("--requests", "20")
    assert done.exit_code == 0, done.output
    data = report()
    assert data["settings"] == {
        "url": url,
        "models": "the server's default",
        "tenants": "default",
        "lists": "invented",
        "passages": "20",
        "words": "40",
        "options": "the server's defaults",
        "attempts": 4,
        "timeout_s": 60.0,
        "seed": 0,
    }
    assert data["schedule"] == {
        "kind": "closed",
        "stages": ["20s@4"],
        "arrivals": None,
        "requests": 20,
        "warmup_s": 2.0,
        "was_stopped": False,
    }
    assert data["summary"]["objective"] == "p95<2s"


def test_what_is_printed_is_the_figures_and_where_the_report_is(dear: Dear, tmp_path: Path) -> None:
    with trivial() as url:
        done = dear("--url", url, *QUICK, "--rate", "100")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("requests: 20 in ")
    assert "orders that are permutations: 20 of 20" in lines
    assert [line.split()[0] for line in lines if line.startswith(("latency", "service", "queue", "engine"))]
    assert lines[-1] == f"report: {tmp_path}/out/report.html (also report.md, report.json)"
    assert "\x1b" not in done.output
    assert "\r" not in done.output


def test_json_is_all_that_json_prints_on_stdout(dear: Dear, report: Callable[[], dict[str, Any]]) -> None:
    with trivial(Behaviour(overload_share=0.2)) as url:
        done = dear("--url", url, *QUICK, "--rate", "100", "--json")
    assert json.loads(done.stdout) == report()
    with trivial() as url:
        search = ("--find-capacity", "--rate", "500", "--duration", "50ms", "--warmup", "0")
        done = dear("--url", url, *search, "--objective", "p90<100ms", "--json")
    assert json.loads(done.stdout)["capacity"]["steps"]
    assert "requests/s: " in done.stderr


async def one_slow(asked: Asked) -> bytes:
    await asyncio.sleep(0.2)
    return await ranks(asked)


@pytest.mark.parametrize(
    ("respond", "options", "code"),
    [
        (ranks, (), 0),
        (ranks, ("--objective", "p95<5s"), 0),
        (one_slow, ("--objective", "p95<100ms"), 4),
        (always(ranking([0, 1, 2, 2])), (), 1),
        (always(refusal()), ("--attempts", "1"), 1),
        (always(refusal()), ("--objective", "p95<5s", "--attempts", "1"), 1),
    ],
    ids=["held", "objective held", "objective missed", "all invalid", "all refused", "asked, all refused"],
)
def test_the_exit_code_says_what_came_of_it(
    dear: Dear,
    report: Callable[[], dict[str, Any]],
    respond: Respond,
    options: tuple[str, ...],
    code: int,
) -> None:
    with scripted(respond) as served:
        done = dear("--url", served.url, *QUICK, "--rate", "100", *options)
    assert done.exit_code == code, done.output
    assert report()["summary"]["requests"] == 20


@pytest.mark.parametrize("load", [("--rate", "20"), ("--callers", "2"), ("--find-capacity",)], ids=str)
def test_options_that_the_server_refuses_end_the_load_with_its_sentence(
    dear: Dear, tmp_path: Path, load: tuple[str, ...]
) -> None:
    error = {"message": "dear.step: 7 is over the window of 2", "param": "dear.step"}
    with scripted(always(reply(400, {"error": error}))) as served:
        done = dear("--url", served.url, "--duration", "60s", "--warmup", "0", *load)
    assert isinstance(done.exception, ToolError)
    assert str(done.exception) == error["message"]
    assert len(served.rankings) < 10
    assert nothing_written(tmp_path)


def test_an_objective_that_nobody_asked_for_is_no_reason_to_fail_and_one_invalid_order_is(dear: Dear) -> None:
    async def sometimes(asked: Asked) -> bytes:
        bad = asked.is_ranking and len(served.rankings) % 4 == 0
        return answers[code] if bad else await ranks(asked)

    answers = {0: reply(500, {"message": "oh"}), 4: ranking([0, 0, 0, 0])}
    for code in answers:
        with scripted(sometimes) as served:
            done = dear("--url", served.url, *QUICK, "--rate", "100")
        assert done.exit_code == code, done.output
        assert "objective missed" in done.stdout


def test_a_search_tells_each_rate_and_ends_with_the_capacity(
    dear: Dear, report: Callable[[], dict[str, Any]]
) -> None:
    async def breaks(asked: Asked) -> bytes:
        """Above 40 a second: of the last ten the first came less than 250 ms ago."""
        recent = [one.at_s for one in served.rankings[-11:]]
        busy = len(recent) > 10 and recent[-1] - recent[0] < 0.25
        return refusal() if asked.is_ranking and busy else await ranks(asked)

    search = ("--find-capacity", "--rate", "30", "--duration", "700ms", "--warmup", "0")
    options = ("--arrivals", "constant", "--objective", "p90<2s", "--passages", "3")
    with scripted(breaks) as served:
        done = dear("--url", served.url, *search, *options)
    told = re.findall(r"^([\d.]+) requests/s: (held|broke)", done.stderr, re.MULTILINE)
    data = report()["capacity"]
    assert [(float(rate), end == "held") for rate, end in told] == [
        (float(f"{step['rate']:.4g}"), step["held"]) for step in data["steps"]
    ]
    assert 30 <= data["requests_per_s"] <= 50
    assert done.exit_code == 0
    assert f"Capacity: {data['requests_per_s']:.3g} requests/s, the highest rate tried" in done.stdout


def test_a_search_in_which_no_rate_holds_says_so_and_misses(dear: Dear) -> None:
    options = ("--find-capacity", "--rate", "900", "--duration", "50ms", "--warmup", "0", "--passages", "3")
    with scripted(one_slow) as served:
        done = dear("--url", served.url, *options, "--objective", "p50<100ms")
    assert done.exit_code == 4, done.output
    assert "No rate tried held p50<100ms; the last of them:" in done.stdout


# --- usage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rate", "5", "--callers", "5"], "--rate and --callers are two kinds of load; give one"),
        (["--rate", "fast"], "--rate: 'fast' is no load such as 20, 5:50, 30s@10 or 1m@5:50"),
        (["--rate", "0"], "--rate: '0': a load above 0 is needed"),
        (["--callers", "2.5"], "--callers: '2.5': whole callers are needed"),
        (["--callers", "10s@1:2.5"], "--callers: '10s@1:2.5': whole callers are needed"),
        (["--duration", "0"], "--duration: '0' is no duration such as 30s, 500ms or 2m"),
        (["--warmup", "-1s"], "--warmup: '-1s' is no duration such as 30s, 500ms or 2m"),
        (["--timeout", "never"], "--timeout: 'never' is no duration such as 30s, 500ms or 2m"),
        (["--deadline", "soon"], "--deadline: 'soon' is no duration such as 30s, 500ms or 2m"),
        (["--arrivals", "even"], "--arrivals: 'even' is neither poisson nor constant"),
        (["--objective", "fast"], "--objective: 'fast' is no objective such as p95<2s or p99<800ms"),
        (["--passages", "0"], "--passages: '0': lengths begin at 1 and rise"),
        (["--words", "x"], "--words: 'x' is no length such as 20, 5-100 or 20~0.5"),
        (["--model", "a=0"], "--model: 'a=0': NAME or NAME=WEIGHT with a weight above 0 is needed"),
        (["--model", "a", "--model", "a=2"], "--model: 'a' is given 2 times"),
        (["--model", "all", "--model", "a"], "--model: all is every model already; give it alone"),
        (["--tenant", "acme"], "--tenant: 'acme': NAME:VARIABLE is needed"),
        (["--tenant", "acme:NO"], "--tenant: tenant 'acme': the environment variable NO is not set"),
        (["--tenant", "a:HOME", "--tenant", "a:PATH"], "--tenant: 'a' is given 2 times"),
        (["--tenant", "a:HOME", "--api-key", KEY], "--tenant: tenants bring keys of their own"),
        (["--find-capacity", "--callers", "3"], "--find-capacity raises a rate, each for --duration"),
        (["--find-capacity", "--requests", "3"], "--find-capacity raises a rate, each for --duration"),
        (["--find-capacity", "--rate", "1:5"], "--rate: --find-capacity starts from one rate"),
        (["--find-capacity", "--rate", "1s@1,1s@2"], "--rate: --find-capacity starts from one rate"),
        (["--requests", "0"], "--requests: Input should be greater than or equal to 1"),
        (["--zipf", "-1"], "--zipf: Input should be greater than or equal to 0"),
        (["--zipf", "11"], "--zipf: Input should be less than or equal to 10"),
        (["--zipf", "nan"], "--zipf"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error_that_names_it(
    dear: Dear, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    with scripted() as served:
        done = dear("--url", served.url, *arguments)
    assert done.exit_code == 2, done.output
    said = " ".join(done.stderr.split())
    assert sentence in re.sub(r"Invalid value for '?(--[\w-]+)'?:", r"\1:", said)
    assert done.stdout == ""
    assert served.asked == []
    assert nothing_written(tmp_path)


def test_the_help_says_what_the_defaults_are(dear: Dear) -> None:
    said = " ".join(dear("--help").stdout.split())
    for default in ("4", "20, or the file's", "40, or the file's", "p95<2s", "1, in a closed loop 4"):
        assert f"[default: ({default})" in said


# --- before there is any load -------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_one_sentence(dear: Dear, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = dear("--url", url)
    assert str(done.exception) == f"no server answers at {url}/v1/models: connection refused"
    assert nothing_written(tmp_path)


async def silent(asked: Asked) -> bytes:
    await asyncio.sleep(5)
    return b""


def everything(answer: bytes) -> Respond:
    async def respond(asked: Asked) -> bytes:
        return answer

    return respond


CUT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 500\r\n\r\n{"


@pytest.mark.parametrize(
    ("respond", "sentence"),
    [
        (
            everything(reply(200, "<html>", content_type="text/html")),
            "{url}/v1/models: answered HTTP 200 with text/html instead of JSON, so this is probably another",
        ),
        (everything(CUT), "the connection to {url}/v1/models broke half-way: 1 of 500 bytes"),
        (everything(reply(401, {"message": "the API key has expired"})), "the API key has expired"),
        (everything(reply(404, {"message": "there is no such path"})), "there is no such path"),
        (everything(reply(200, {"models": []})), '{url}/v1/models: the reply has no "data"'),
        (everything(refusal(503)), "too much work ahead"),
        (silent, "no answer from {url}/v1/models within 0.5 s"),
    ],
    ids=["HTML", "cut", "401", "404", "another JSON", "503", "never answers"],
)
def test_a_server_that_cannot_be_asked_is_one_sentence_and_gets_no_load(
    dear: Dear, tmp_path: Path, respond: Respond, sentence: str
) -> None:
    with scripted(respond) as served:
        done = dear("--url", served.url, "--timeout", "500ms")
        assert sentence.format(url=served.url) in str(done.exception)
    assert served.rankings == []
    assert done.stdout == ""
    assert nothing_written(tmp_path)


def test_a_url_that_is_none_is_one_sentence(dear: Dear) -> None:
    assert "'nowhere' is no URL such as" in str(dear("--url", "nowhere").exception)


async def by_key(asked: Asked) -> bytes:
    """Models as tenants may use them."""
    key = asked.headers.get("authorization", "").removeprefix("Bearer ")
    if key == "expired":
        return reply(401, {"error": {"message": "the API key has expired"}})
    if asked.is_ranking:
        return await ranks(asked)
    return models("dear-tiny", "legal", *(["medical"] if key == "b" else []))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nobody"], "{url} has no model 'nobody'; there is: dear-tiny, legal"),
        (
            ["--tenant", "ab:B", "--tenant", "cd:A", "--model", "medical"],
            "tenant 'cd' may use no model 'medical'",
        ),
        (["--tenant", "ab:B", "--tenant", "cd:EXPIRED"], "tenant 'cd': the API key has expired"),
    ],
)
def test_a_model_or_key_that_is_not_good_is_named_before_any_load(
    dear: Dear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    for name in ("A", "B", "EXPIRED"):
        monkeypatch.setenv(name, name.lower())
    with scripted(by_key) as served:
        done = dear("--url", served.url, *arguments)
        assert sentence.format(url=served.url) in str(done.exception)
    assert served.rankings == []
    assert nothing_written(tmp_path)


def test_all_models_are_those_that_every_tenant_may_use(dear: Dear, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B"):
        monkeypatch.setenv(name, name.lower())
    with scripted(by_key) as served:
        done = dear("--url", served.url, *QUICK, "--tenant", "one:B", "--tenant", "two:A", "--model", "all")
        assert done.exit_code == 0, done.output
        assert {asked.body["model"] for asked in served.rankings} == {"dear-tiny", "legal"}
        served.asked.clear()
        dear("--url", served.url, *QUICK, "--tenant", "one:B", "--model", "all")
        assert {asked.body["model"] for asked in served.rankings} == {"dear-tiny", "legal", "medical"}


def test_all_models_of_a_server_that_has_none_is_a_sentence(dear: Dear) -> None:
    with scripted(everything(models())) as served:
        assert "has no model that all may use" in str(dear("--url", served.url, "--model", "all").exception)


def test_a_malformed_line_is_named_and_the_server_is_not_even_asked(dear: Dear, tmp_path: Path) -> None:
    file = tmp_path / "lists.jsonl"
    file.write_text('{"query": "q", "documents": ["a"]}\n' * 3416 + '{"query": "q", "documents": \n')
    with scripted() as served:
        done = dear("--url", served.url, "--file", str(file))
    assert str(done.exception) == f"{file}, line 3417: this is not valid JSON"
    assert served.asked == []
    assert nothing_written(tmp_path)


def test_a_report_that_could_not_be_written_is_known_before_any_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with scripted() as served:
        done = CliRunner().invoke(app, ["--url", served.url, "--out", str(tmp_path / "file")])
    assert "is no folder" in str(done.exception)
    assert served.asked == []


# --- what is sent -----------------------------------------------------------------------------------------


def test_the_options_of_a_request_are_those_given(dear: Dear, report: Callable[[], dict[str, Any]]) -> None:
    options = ("--top-n", "2", "--strategy", "single", "--scoring", "first_token", "--window-size", "10")
    answer = always(ranking([3, 1]))
    with scripted(answer) as served:
        done = dear("--url", served.url, *QUICK, *options, "--deadline", "1500ms", "--identical")
    assert done.exit_code == 0, done.output
    bodies = [asked.body for asked in served.rankings]
    assert len({json.dumps(body) for body in bodies}) == 1
    assert bodies[0]["top_n"] == 2
    assert bodies[0]["dear"] == {
        "strategy": "single",
        "scoring": "first_token",
        "window_size": 10,
        "deadline_ms": 1500,
    }
    settings = report()["settings"]
    assert settings["identical"] is True
    assert settings["options"]["deadline_s"] == 1.5


@pytest.mark.parametrize(
    ("load", "attempts"), [(("--rate", "50"), 1), (("--callers", "2"), 4), (("--attempts", "2"), 2)]
)
def test_a_refused_request_is_tried_again_in_a_closed_loop_and_not_in_an_open_one(
    dear: Dear, report: Callable[[], dict[str, Any]], load: tuple[str, ...], attempts: int
) -> None:
    with scripted(always(refusal(retry_after="0.01"))) as served:
        dear("--url", served.url, "--warmup", "0", "--requests", "3", "--passages", "3", *load)
    ids = Counter(asked.headers["x-request-id"] for asked in served.rankings)
    assert list(ids.values()) == [attempts] * 3
    retries = report()["summary"]["retries"]
    assert (retries["refusals"], retries["retried"]) == (3 * attempts, 3 * (attempts - 1))
    assert (retries["too_soon"], retries["let_in"]) == (0, 0)


def test_popularity_follows_zipf_in_the_order_given(dear: Dear) -> None:
    options = ("--requests", "300", "--warmup", "0", "--passages", "2", "--zipf", "2", "--callers", "8")
    with scripted() as served:
        dear("--url", served.url, *options, "--model", "legal", "--model", "medical", "--model", "dear-tiny")
    counts = Counter(asked.body["model"] for asked in served.rankings)
    assert [name for name, _ in counts.most_common()] == ["legal", "medical", "dear-tiny"]
    assert counts["legal"] == pytest.approx(300 / (1 + 1 / 4 + 1 / 9), abs=40)


@pytest.mark.parametrize(
    "arguments", [("--tenant", "acme:ACME_KEY=2"), ("--api-key", KEY), (f"--api-key={KEY}",)]
)
def test_no_key_is_shown_anywhere(
    dear: Dear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ACME_KEY", KEY)
    with scripted() as served:
        monkeypatch.setattr("sys.argv", ["dear", "load", "--url", served.url, *QUICK, *arguments])
        done = dear(*sys.argv[2:])
    assert done.exit_code == 0, done.output
    assert not any(KEY in text for text in (done.output, *(path.read_text() for path in out_of(tmp_path))))
    typed = json.loads((tmp_path / "out" / "report.json").read_text())["command"]
    assert typed.startswith(f"dear load --url {served.url} --requests 20 ")
    assert arguments[0].partition("=")[0] in typed
    assert {asked.headers["authorization"] for asked in served.rankings} == {f"Bearer {KEY}"}


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def started(url: str, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dear_serving", "load", "--url", url, "--out", str(out), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(met: Callable[[], bool], seconds: float = 30) -> None:
    deadline_s = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("load", [("--rate", "20"), ("--callers", "2"), ("--rate", "0.05")])
def test_ctrl_c_ends_a_run_early_with_a_whole_report(tmp_path: Path, load: tuple[str, ...]) -> None:
    arguments = ("--duration", "10m", "--warmup", "0", "--arrivals", "constant", "--passages", "3")
    with (
        scripted() as served,
        started(served.url, tmp_path, *arguments, *load) as process,
    ):
        wait_for(lambda: len(served.rankings) >= (1 if load[1] == "0.05" else 10))
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "It was stopped before its end." in stdout
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["schedule"]["was_stopped"] is True
    assert data["summary"]["requests"] == len(served.rankings)
    assert data["summary"]["offered_s"] < 60


def test_ctrl_c_in_a_search_reports_the_rates_before(tmp_path: Path) -> None:
    arguments = ("--find-capacity", "--rate", "25", "--duration", "1s", "--warmup", "0", "--passages", "3")
    with scripted() as served, started(served.url, tmp_path, *arguments) as process:
        wait_for(lambda: len(served.rankings) >= 50)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    steps = json.loads((tmp_path / "report.json").read_text())["capacity"]["steps"]
    assert [step["end"] for step in steps[:-1]] == ["held"] * (len(steps) - 1)
    assert steps[-1]["end"] == "stopped"
    assert "Capacity: " in stdout
    assert "It was stopped before its end." in stdout


def test_a_second_ctrl_c_ends_everything_and_nothing_is_written(tmp_path: Path) -> None:
    async def never(asked: Asked) -> bytes:
        if asked.is_ranking:
            await asyncio.sleep(60)
        return await ranks(asked)

    arguments = ("--callers", "2", "--duration", "10m", "--warmup", "0")
    with scripted(never) as served, started(served.url, tmp_path, *arguments) as process:
        wait_for(lambda: len(served.rankings) == 2)
        for _ in range(2):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
