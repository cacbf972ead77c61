"""The report of a load test: JSON, Markdown and a page."""

from __future__ import annotations

import dataclasses
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dear_tools.exits import ToolError
from dear_tools.load import figures, report
from dear_tools.load.capacity import Step
from dear_tools.load.loadtest import Outcome
from dear_tools.load.objective import parse_objective
from dear_tools.load.records import Record, Refusal
from dear_tools.load.schedule import Schedule, Stage
from tests.tools.load.runs import made, summary_of

EVIL = """<script>alert(1)</script> | `a` "b" 'c' & $\\frac{x$ \\| <img src=x onerror=y> _z_ 名前"""
SETTINGS = {"url": "http://server", "models": EVIL, "options": {"top_n": 3}, "attempts": 1}


def some(count: int = 200, *, tenants: int = 3, models: int = 10, seed: int = 0) -> list[Record]:
    """Requests of some tenants and models, some of them refused."""
    source = random.Random(seed)
    return [
        made(
            n * 20 / count,
            source.lognormvariate(-2, 0.6),
            source.choices(["ok", "refused", "failed"], [90, 7, 3])[0],
            tenant=f"tenant-{n % tenants}" if tenants > 1 else "default",
            model=f"model-{n % models}" if models > 1 else "",
            windows=1,
            engine_ms=20.0,
        )
        for n in range(count)
    ]


def run_of(records: list[Record], objective: str = "p95<2s", **more: Any) -> Outcome:
    summary = summary_of(records, objective, end_s=20.0)
    return Outcome(Schedule("open", (Stage(20, 10, 10),)), summary, tuple(records), False, **more)


def written(
    folder: Path,
    outcome: Outcome,
    steps: list[Step] | None = None,
    *,
    command: str = "dear load --rate 10",
    settings: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], str, str]:
    """The three files of a report."""
    steps = steps or []
    data = report.content(command, settings or SETTINGS, outcome, steps, report.environment())
    report.write(folder, data, outcome, parse_objective(outcome.summary.objective), steps)
    text, markdown, html = ((folder / name).read_text(encoding="utf-8") for name in report.NAMES)
    assert sorted(path.name for path in folder.iterdir()) == sorted(report.NAMES)
    return json.loads(text), markdown, html


def searched() -> tuple[Outcome, list[Step]]:
    steps = [
        Step(rate, end, run_of(some(int(20 * rate), seed=int(rate)), "p80<1s"))
        for rate, end in ((10, "held"), (20, "held"), (40, "cut"), (30, "broke"))
    ]
    return steps[1].outcome, steps


# --- the page as a browser sees it ----------------------------------------------------------------------


class Page(HTMLParser):
    """What a page holds: its tags with their attributes, its text, its tables."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[int] = []
        self.tables: list[list[int]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(html: str) -> Page:
    """Nothing is fetched, nothing runs, tables have even rows, plots are SVG that can be read."""
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "b-"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "style", "clip-path"):
                for target in [value or ""] if "href" in name else re.findall(r"url\(([^)]*)\)", value or ""):
                    assert target.strip("'\"").startswith(("#", "data:image/png;base64,")), (tag, name, value)
    assert "@import" not in html
    for table in page.tables:
        assert len(set(table)) == 1, page.tables
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
        assert "mathdefault" not in svg
    return page


def check_markdown(markdown: str) -> list[list[str]]:
    """Every table has a line of dashes and rows of one length; the header cells of each."""
    headers = []
    blocks = re.split(r"\n(?!\|)", markdown)
    for block in blocks:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1] for line in lines]
            assert set(re.sub(r"[| ]", "", lines[1])) == {"-"}
            assert len({len(row) for row in cells}) == 1, block
            headers.append([cell.strip() for cell in cells[0]])
    return headers


# --- JSON --------------------------------------------------------------------------------------------

SPREAD = {"count": int, "mean_ms": float, "p50_ms": float, "p90_ms": float, "p95_ms": float} | {
    "p99_ms": float,
    "max_ms": float,
}
PART = {"name": str, "requests": int, "ok": int, "refused_share": float, "goodput_share": float}
SUMMARY = {
    **dict.fromkeys(("requests", "good", "repaired"), int),
    **dict.fromkeys(("offered_s", "duration_s", "offered_per_s", "ok_per_s", "passages_per_s"), float),
    **dict.fromkeys(("tokens_per_s", "windows_per_request", "good_per_s", "good_share"), float),
    **dict.fromkeys(("refused_share", "lag_p99_ms", "generator_cpu"), float),
    **dict.fromkeys(("results", "messages"), dict),
    **dict.fromkeys(("latency", "service", "queue", "engine"), SPREAD),
    "objective": str,
    "objective_met": bool,
    "retries": {
        "refusals": int, "with_retry_after": int, "retried": int, "too_soon": int, "let_in": int
    },
    "tenants": [PART | {"latency": SPREAD}],
    "models": [PART | {"latency": SPREAD}],
    "intervals": [
        {"start_s": float, "full": bool, "offered_per_s": float, "ok_per_s": float, "errors_per_s": float}
        | {"p50_ms": (float, type(None)), "p95_ms": (float, type(None))}
    ],
}  # fmt: skip
SCHEMA = {
    "command": str,
    "environment": {
        "sent_from": str,
        "load_average_1_min": float,
        "python": str,
        "dear_serving": str,
        "at": str,
    },
    "settings": dict,
    "schedule": {
        "kind": str,
        "stages": [str],
        "arrivals": str,
        "requests": type(None),
        "warmup_s": float,
        "was_stopped": bool,
    },
    "summary": SUMMARY,
}
CAPACITY = {
    "objective": str,
    "requests_per_s": int,
    "steps": [
        {"rate": int, "held": bool, "end": str, "ok_per_s": float, "good_share": float}
        | {"refused_share": float, "lag_p99_ms": float, "generator_cpu": float, "latency": SPREAD}
    ],
}


def conforms(value: Any, shape: Any, where: str = "report") -> None:
    """Every field is there, none is beside them, each of its kind."""
    if isinstance(shape, dict):
        assert set(value) == set(shape), where
        for name, inner in shape.items():
            conforms(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        assert value, where
        for one in value:
            conforms(one, shape[0], where)
    else:
        assert type(value) in (shape if isinstance(shape, tuple) else (shape,)), (where, value)


def test_the_json_has_every_figure_and_none_beside_them(tmp_path: Path) -> None:
    data, _, _ = written(tmp_path, run_of(some()))
    conforms(data, SCHEMA)
    assert sum(part["requests"] for part in data["summary"]["tenants"]) == 200
    assert len(data["summary"]["models"]) == 10


def test_the_json_of_a_search_has_its_steps(tmp_path: Path) -> None:
    outcome, steps = searched()
    data, _, _ = written(tmp_path, outcome, steps)
    conforms(data, SCHEMA | {"capacity": CAPACITY})
    assert data["capacity"]["requests_per_s"] == 20
    assert [(step["rate"], step["held"], step["end"]) for step in data["capacity"]["steps"]] == [
        *((10, True, "held"), (20, True, "held"), (40, False, "cut"), (30, False, "broke")),
    ]


# --- Markdown and the page ---------------------------------------------------------------------------

PLOTS = ["Latency over time", "Latency, cumulative", "Requests/s", "Throughput against latency"]


def titles(html: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)</figcaption>", html)


def test_a_plain_run_has_its_plots_and_tables(tmp_path: Path) -> None:
    _, markdown, html = written(tmp_path, run_of(some(tenants=1, models=1)))
    page = check_page(html)
    assert titles(html) == PLOTS
    headers = check_markdown(markdown)
    assert headers == [["", ""], ["time", "p50", "p90", "p95", "p99", "longest"], ["conditions", ""]]
    for text in (page.text, markdown):
        assert "dear load --rate 10" in text
        assert "top_n 3" in text
        assert "without warm-up" in text


def test_tenants_and_models_have_plots_and_tables_of_their_own(tmp_path: Path) -> None:
    _, markdown, html = written(tmp_path, run_of(some()))
    assert titles(html) == [*PLOTS, "Tenants", "Models"]
    columns = ["requests", "within objective", "refused", "p50", "p95", "p99"]
    headers = check_markdown(markdown)
    assert ["tenant", *columns] in headers
    assert ["model", *columns] in headers
    assert len(re.findall(r"^\| model-\d", markdown, re.MULTILINE)) == 10
    check_page(html)


def test_a_search_shows_the_rates_tried_in_their_order_and_the_capacity(tmp_path: Path) -> None:
    outcome, steps = searched()
    _, markdown, html = written(tmp_path, outcome, steps)
    assert "**Capacity: 20 requests/s** is the highest rate tried at which `p80<1s` held." in markdown
    rows = re.findall(r"^\| (\d+) \| (\w[^|]*) \|", markdown, re.MULTILINE)
    assert rows == [("10", "yes"), ("20", "yes"), ("30", "no"), ("40", "no, ended early")]
    check_markdown(markdown)
    assert "requests/s at which p80<1s held" in check_page(html).text


def test_a_search_in_which_nothing_held_says_so(tmp_path: Path) -> None:
    _, steps = searched()
    data, markdown, html = written(tmp_path, steps[2].outcome, steps[2:])
    assert data["capacity"]["requests_per_s"] is None
    assert "**No rate tried held `p80<1s`.**" in markdown
    assert "none" in check_page(html).text


@pytest.mark.parametrize(
    "records",
    [
        [],
        [made(n, 0.001, "unavailable", message="no server answers") for n in range(20)],
        [made(n, 0.1, "invalid", status=200, message="no permutation") for n in range(20)],
        [made(0.0, 0.1)],
        [made(0.0, 0.0)],
        [made(n / 100, 0.05) for n in range(100)],
        [made(n, 60.0, "late") for n in range(19)] + [made(19, 1e-5)],
    ],
    ids=["empty", "unavailable", "invalid", "one", "no time at all", "all the same", "one of twenty"],
)
def test_every_run_has_a_report_however_little_came_of_it(tmp_path: Path, records: list[Record]) -> None:
    outcome = run_of(records)
    data, markdown, html = written(tmp_path, outcome)
    assert data["summary"]["requests"] == len(records)
    check_markdown(markdown)
    page = check_page(html)
    assert titles(html)
    if any(record.message for record in records):
        assert f"20 times: {records[0].message}" in markdown
        assert f"{records[0].message}" in page.text
    if not records:
        assert "No request was sent after the warm-up." in page.text


def test_what_others_wrote_cannot_break_a_page_or_a_table(tmp_path: Path) -> None:
    records = [
        *(made(n / 10, 0.1, tenant=EVIL, model=EVIL + "2") for n in range(50)),
        *(made(n / 10, 0.1, tenant="_hidden", model="\\") for n in range(50)),
        *(made(n / 10, 0.1, tenant="a | b", model="\\|") for n in range(50)),
        made(1.0, 0.1, "failed", message=EVIL),
    ]
    outcome = run_of(records)
    command = f"dear load --model '{EVIL}\n| x |'"
    data, markdown, html = written(tmp_path, outcome, command=command, settings=SETTINGS | {EVIL: EVIL})
    page = check_page(html)
    assert titles(html)[-2:] == ["Tenants", "Models"]
    assert "alert(1)" in page.text
    assert "<script" not in html
    check_markdown(markdown)
    assert "<script" not in "".join(line for line in markdown.splitlines() if not line.startswith("    "))
    assert data["summary"]["messages"] == {EVIL: 1}
    assert "_hidden" in html
    assert "名前" in html


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a | b", "a \\| b"),
        ("a\\", "a\\\\"),
        ("a\\|b", "a\\\\\\|b"),
        ("two\nlines", "two lines"),
        ("p95<2s & more", "p95<2s & more"),
        ("<b> &lt;", "&lt;b> &amp;lt;"),
        (7, "7"),
    ],
)
def test_a_cell_of_a_table_stays_one(text: object, expected: str) -> None:
    assert figures.cell(text) == expected


def test_the_page_follows_light_and_dark(tmp_path: Path) -> None:
    _, _, html = written(tmp_path, run_of(some()))
    assert "prefers-color-scheme: dark" in html
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 6
    for svg in svgs:
        assert "currentColor" in svg
        assert "var(--line)" in svg
        assert not re.search(r"#(?:000000|ffffff)\b", svg)


def test_a_long_run_makes_no_heavy_page(tmp_path: Path) -> None:
    _, _, html = written(tmp_path, run_of(some(20_000)))
    assert len(html) < 1_500_000


# --- warnings and figures -----------------------------------------------------------------------------


def warned(outcome: Outcome, steps: list[Step] | None = None) -> str:
    return " ".join(report.warnings(outcome, steps or []))


def with_cpu(outcome: Outcome, cpu: float) -> Outcome:
    return dataclasses.replace(outcome, summary=dataclasses.replace(outcome.summary, generator_cpu=cpu))


def test_warnings_say_what_stands_against_the_figures() -> None:
    assert warned(run_of(some())) == ""
    assert "took 95% of a core" in warned(with_cpu(run_of(some()), 0.95))
    late = run_of([made(n / 10, 0.3, lag_s=0.2) for n in range(100)])
    assert "went out over 200 ms late" in warned(late)
    assert "no permutation of their passages: 1." in warned(run_of([made(result="invalid")]))
    soon = run_of([made(retried=(Refusal(429, 1.0, 0.5, True),), refusals=1, named=1)])
    assert "before the time asked for: 1." in warned(soon)
    outcome, steps = searched()
    limited = Step(50.0, "broke", with_cpu(outcome, 0.97))
    assert "The search ended at 50 requests/s because the load generator took 97%" in warned(
        outcome, [*steps, limited]
    )
    assert "stopped before its end" in warned(outcome, [*steps, Step(50.0, "stopped", outcome)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0 ms"),
        (1.234, "1.23 ms"),
        (99.96, "100 ms"),
        (1234.5, "1234 ms"),
        (12_345, "12.3 s"),
    ],
)
def test_milliseconds(value: float | None, expected: str) -> None:
    assert figures.ms(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0.0%"), (1, "100.0%"), (0.9999, "> 99.9%"), (0.0001, "< 0.1%"), (0.9994, "99.9%"), (0.5, "50.0%")],
)
def test_a_share_that_is_not_all_or_nothing_does_not_look_it(value: float, expected: str) -> None:
    assert figures.share(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (1.234, "1.23"),
        (999.4, "999"),
        (999.7, "1,000"),
        (123_456.7, "123,457"),
        (0.05, "0.05"),
    ],
)
def test_numbers(value: float, expected: str) -> None:
    assert figures.number(value) == expected


# --- writing ----------------------------------------------------------------------------------------------


def test_a_report_that_cannot_be_made_leaves_the_last_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path, run_of(some()))

    def fails(*given: object, **named: object) -> str:
        raise RuntimeError("no plot")

    monkeypatch.setattr(report.plots, "distribution", fails)
    with pytest.raises(RuntimeError, match="no plot"):
        written(tmp_path, run_of(some(50)))
    monkeypatch.undo()
    after = tuple((tmp_path / name).read_text() for name in report.NAMES)
    assert (json.loads(after[0]), *after[1:]) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_is_a_file_is_refused_before_any_load(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below" / "it"):
        with pytest.raises(ToolError) as raised:
            report.check_folder(folder)
        assert str(raised.value) == f"cannot write a report to {folder}: {file} is no folder"
    report.check_folder(tmp_path / "new" / "folders")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ToolError, match="permission denied"):
        report.check_folder(tmp_path / "new")
