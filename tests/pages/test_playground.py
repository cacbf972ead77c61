"""The playground, as a reader uses it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Browser, Page, expect

from dear_serving.types import StrategyName
from tests.pages.conftest import NewPage, ranked, wait_until_whole
from tests.support.browser import accessibility_findings
from tests.support.page_server import PageServer

pytestmark = pytest.mark.integration


def rank(page: Page) -> None:
    page.get_by_role("button", name="Rank", exact=True).last.click()


def compare(page: Page, other: str = "legal") -> None:
    """Choose a second model and rank."""
    page.get_by_role("button", name="+ Compare with another").click()
    page.get_by_label("Model B").select_option(other)
    rank(page)


def test_ranks_appear_as_they_are_decided(server: PageServer, page: Page) -> None:
    server.engine.holds_at = 2
    rank(page)
    expect(page.locator("ol.ranks > .item")).to_have_count(2)
    expect(page.locator("ul.waiting > .item")).to_have_count(3)
    expect(page.get_by_text("2 of 5 …")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("dear-tiny. 2: [3] KEPCO fixes light problems")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    server.engine.holds_at = None
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]
    expect(page.locator(".score").first).to_have_text("score 0.72")
    expect(page.get_by_role("status")).to_contain_text("dear-tiny ranked 5 passages. 1: [4] Thomas Edison")


def test_a_ranking_can_be_stopped_and_keeps_what_was_decided(server: PageServer, page: Page) -> None:
    server.engine.holds_at = 2
    rank(page)
    expect(page.locator("ol.ranks > .item")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    assert ranked(page) == [4, 3]
    expect(page.get_by_text("Not ranked: 3")).to_be_visible()


def test_two_models_stand_side_by_side_with_lines_and_their_agreement(page: Page) -> None:
    compare(page)
    wait_until_whole(page)
    assert (ranked(page, 0), ranked(page, 1)) == ([4, 3, 2, 1, 0], [0, 1, 2, 3, 4])
    expect(page.get_by_label("Agreement")).to_contain_text(re.compile(r"Kendall.s τ .1\.00: 0 of 10 pairs"))
    expect(page.locator(".lines path")).to_have_count(5)
    expect(page.locator("[data-place='1'] .item").first).to_contain_text("A 5 ↑")
    expect(page.get_by_label("How legal ranked")).to_contain_text("legal@")


def test_the_time_the_windows_and_the_tokens_are_shown(page: Page) -> None:
    page.get_by_role("button", name="60 passages").click()
    page.get_by_text("Options").click()
    page.get_by_label("Strategy").select_option("merge2")
    page.get_by_label("Only the best").fill("10")
    rank(page)
    wait_until_whole(page)
    how = page.get_by_label("How dear-tiny ranked")
    for words in ("queue", "engine", "gateway", "network", "total", "tokens", "merge2"):
        expect(how).to_contain_text(words)
    expect(how.locator("figcaption")).to_contain_text("windows in 2 rounds, at most 3 at once")
    how.get_by_text("As a table").click()
    assert how.locator("tbody tr").count() == how.locator(".window").count() > 3
    assert len(ranked(page)) == 10
    expect(page.get_by_text("50 passages below the first 10 were not asked for.")).to_be_visible()


def test_every_strategy_of_the_server_is_offered(page: Page) -> None:
    page.get_by_text("Options").click()
    expect(page.get_by_label("Strategy").locator("option")).to_have_text(list(get_args(StrategyName)))


def test_what_was_cut_is_marked(page: Page) -> None:
    page.get_by_label("Passages").fill("a short one\n" + "a long passage " * 100)
    rank(page)
    wait_until_whole(page)
    cut = page.locator(".item", has=page.get_by_text("cut", exact=True))
    expect(cut).to_have_attribute("data-index", "1")
    expect(page.get_by_text("1 passage cut to 300 characters")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_role("button", name="Show less")).to_have_attribute("aria-expanded", "true")


@pytest.mark.parametrize("models", [1, 2])
def test_a_stream_that_fails_half_way_says_so_and_keeps_what_was_decided(
    server: PageServer, page: Page, models: int
) -> None:
    server.engine.holds_at, server.engine.fails = 2, "the engine died"
    if models == 2:
        compare(page)
    else:
        rank(page)
    wait_until_whole(page)
    for place in range(models):
        assert len(ranked(page, place)) == 2
    alert = page.get_by_role("alert").first
    expect(alert).to_contain_text("The engine died. 2 ranks decided before that are kept.")
    server.engine.holds_at = None
    alert.get_by_role("button", name="Try again").click()
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]


def test_a_server_that_goes_away_in_the_middle_is_waited_for(server: PageServer, page: Page) -> None:
    server.engine.holds_at = 2
    rank(page)
    expect(page.locator("ol.ranks > .item")).to_have_count(2)
    server.stop()
    try:
        expect(page.get_by_role("alert")).to_contain_text("No answer.")
        expect(page.get_by_role("alert")).to_contain_text("2 ranks decided before that are kept.")
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_contain_text("The server may be restarting.")
    finally:
        server.engine.holds_at = None
        server.start()
    page.get_by_role("button", name="Try again").click()
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]


HOSTILE = [
    "<script>window.wrong = 1</script>",
    "<img src=x onerror='window.wrong = 1'>",
    "javascript:window.wrong=1",
    "\u202eright to left\u202c עברית العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \u200b zero width",
    "[0] > [1] </textarea> {{7*7}} ${7*7} %3Cscript%3E",
]


def test_hostile_passages_are_shown_as_text(page: Page) -> None:
    page.get_by_label("Query").fill("<b onclick=alert(1)>query</b>")
    page.get_by_label("Passages").fill("\n".join(HOSTILE))
    compare(page)
    wait_until_whole(page)
    shown = page.locator("[data-place='1'] .passage").evaluate_all("all => all.map((one) => one.textContent)")
    assert shown == HOSTILE
    assert page.evaluate("window.wrong") is None
    assert page.locator(".passage *").count() == 0
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # from the link, too
    expect(page.get_by_label("Passages")).to_have_value("\n".join(HOSTILE))
    assert page.evaluate("window.wrong") is None


@pytest.mark.parametrize("passages", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_passages_are_pasted_ranked_and_shown_in_parts(page: Page, passages: int) -> None:
    text = "\n".join(f"passage {number}" for number in range(passages))
    page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    page.get_by_label("Passages").press("Control+A")
    page.keyboard.press("Control+V")
    expect(page.get_by_text(f"{passages:,} passages, one a line.")).to_be_visible()
    rank(page)
    expect(page.locator(".column[aria-busy=false]")).to_be_visible(timeout=60_000)
    expect(page.locator("ol.ranks > .item")).to_have_count(25)
    page.get_by_role("button", name=f"Show 100 more of {passages - 25:,}").click()
    expect(page.locator("ol.ranks > .item")).to_have_count(125)
    expect(page.locator(":focus")).to_contain_text("26")


@pytest.mark.parametrize(
    ("text", "query", "said"),
    [
        ('["a", {"text": "b"}]', None, "2 passages, JSON."),
        ('{"query": "brought", "documents": ["a", "b", "c"]}', "brought", "3 passages, JSON."),
        ('{"text": "a"}\n{"text": "b"}', None, "2 passages, JSONL."),
        (
            '{"query": "first", "passages": ["a", "b"]}\n{"query": "second", "passages": ["c"]}',
            "first",
            "2 passages, JSONL. The first of 2 lists is taken.",
        ),
        ('["a", "b"', None, "1 passage, one a line. It begins like JSON but is none"),
    ],
    ids=["JSON", "JSON with a query", "JSONL", "lists", "broken JSON"],
)
def test_passages_come_in_many_forms(
    page: Page, tmp_path: Path, text: str, query: str | None, said: str
) -> None:
    file = tmp_path / "passages"
    file.write_text(text)
    page.get_by_label("Open a file").set_input_files(file)
    expect(page.locator("#passages-help")).to_contain_text(said)
    if query is not None:
        expect(page.get_by_label("Query")).to_have_value(query)


def test_a_list_longer_than_the_server_takes_is_not_sent(server: PageServer, page: Page) -> None:
    page.evaluate(DROP, ["many.txt", "x\n" * 10_001])
    asked = len(server.engine.requests)
    rank(page)
    expect(page.get_by_text("10,001 passages: the server takes 10,000.")).to_be_visible()
    assert len(server.engine.requests) == asked


DROP = """([name, text, size]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text ?? new Uint8Array(size).fill(255)], name));
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", options));
}"""


def test_a_file_can_be_dropped_anywhere_and_one_of_50_mb_is_not_read(page: Page) -> None:
    page.evaluate(DROP, ["two.txt", "first\nsecond"])
    expect(page.get_by_label("Passages")).to_have_value("first\nsecond")
    page.evaluate(DROP, ["large.jsonl", None, 50_000_000])
    wrong = "large.jsonl has 50.0 MB, the server takes 33.6 MB. It was not read."
    expect(page.get_by_text(wrong)).to_be_visible()
    page.evaluate(DROP, ["picture.png", None, 1000])
    expect(page.get_by_text("picture.png is not text in UTF-8.")).to_be_visible()
    expect(page.get_by_label("Passages")).to_have_value("first\nsecond")


@pytest.mark.long
def test_a_file_too_long_to_edit_is_kept_beside_the_field(page: Page) -> None:
    text = json.dumps({"query": "from the file", "documents": ["word " * 30_000] * 10})
    page.evaluate(DROP, ["long.json", text])
    expect(page.get_by_text("long.json, 1.5 MB")).to_be_visible()
    expect(page.get_by_label("Query")).to_have_value("from the file")
    rank(page)
    wait_until_whole(page)
    assert len(ranked(page)) == 10
    page.get_by_role("button", name="Remove").last.click()
    expect(page.get_by_label("Passages")).to_be_focused()


def test_a_link_shows_a_colleague_the_same_list(page: Page, new_page: NewPage, server: PageServer) -> None:
    page.get_by_label("Query").fill("Wer erfand die Glühbirne? 💡")
    page.get_by_label("Passages").fill("eins\nzwei")
    page.get_by_text("Options").click()
    page.get_by_label("Instruction").fill("Prefer two.")
    page.get_by_label("Only the best").fill("1")
    page.get_by_role("button", name="+ Compare with another").click()
    page.get_by_label("Model B").select_option("medical")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Link copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    other = new_page(link)
    expect(other.get_by_label("Query")).to_have_value("Wer erfand die Glühbirne? 💡")
    expect(other.get_by_label("Passages")).to_have_value("eins\nzwei")
    expect(other.get_by_label("Instruction")).to_have_value("Prefer two.")
    expect(other.get_by_label("Only the best")).to_have_value("1")
    expect(other.get_by_label("Model B")).to_have_value("medical")


@pytest.mark.parametrize(
    "fragment",
    ["#s=", "#s=AAAA", "#s=%00", "#s=q1YqLE0tqlSyUjq88s"],
    ids=["empty", "no JSON", "no base64", "half"],
)
def test_a_link_that_holds_no_list_says_so(server: PageServer, new_page: NewPage, fragment: str) -> None:
    page = new_page(f"{server.url}/{fragment}")
    expect(page.get_by_role("alert")).to_contain_text("This link's list cannot be read")
    expect(page.get_by_label("Query")).to_have_value("When did Thomas Edison invent the light bulb?")
    rank(page)
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]


def test_the_link_past_the_bar_changes_no_list(page: Page) -> None:
    page.get_by_label("Query").fill("my own")
    page.keyboard.press("Home")
    page.evaluate("location.hash = '#main'")
    rank(page)
    wait_until_whole(page)
    expect(page.get_by_label("Query")).to_have_value("my own")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("Query", " ", "What are the passages ranked for?"),
        ("Passages", "\n \n", "There is nothing to rank yet."),
        ("Passages", "[1, 2]", "Passage 0 is neither a text nor an object."),
        ("Only the best", "1.5", "A whole number, from 1."),
        ("Deadline, ms", "-3", "A whole number of milliseconds, from 1."),
    ],
    ids=["no query", "no passages", "numbers", "a part of a passage", "before now"],
)
def test_a_wrong_field_is_named_before_anything_is_sent(
    server: PageServer, page: Page, field: str, value: str, sentence: str
) -> None:
    page.get_by_text("Options").click()
    page.get_by_label(field).fill(value)
    asked = len(server.engine.requests)
    rank(page)
    expect(page.get_by_text(sentence)).to_be_visible()
    expect(page.get_by_label(field)).to_be_focused()
    expect(page.get_by_label(field)).to_have_attribute("aria-invalid", "true")
    assert len(server.engine.requests) == asked


def test_a_field_that_the_server_refuses_is_marked(page: Page) -> None:
    page.get_by_text("Options").click()
    page.get_by_label("Instruction").fill("x" * 10_001)
    rank(page)
    wait_until_whole(page)
    expect(page.get_by_role("alert").first).to_contain_text("Refused.")
    expect(page.get_by_label("Instruction")).to_have_attribute("aria-invalid", "true")


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_the_request_works_from_elsewhere(page: Page, tmp_path: Path, language: str) -> None:
    page.get_by_label("Query").fill('it\'s "quoted" $HOME `ls` \\ é')
    page.get_by_text("Options").click()
    page.get_by_label("Only the best").fill("2")
    page.get_by_label("Deadline, ms").fill("60000")
    rank(page)
    wait_until_whole(page)
    page.get_by_role("group", name="Language").get_by_role("button", name=language).click()
    page.get_by_role("button", name="Copy", exact=True).click()
    text = page.evaluate("navigator.clipboard.readText()")
    command = {
        "curl": ["bash", "-c", text],
        "Python": [sys.executable, "-c", text],
        "JavaScript": ["node", "--input-type=module", "-e", text],
    }[language]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    assert done.returncode == 0, done.stderr
    if language == "curl":
        assert [one["index"] for one in json.loads(done.stdout)["results"]] == [4, 3]
    else:
        assert len(done.stdout.splitlines()) == 2


COUNT_ANIMATIONS = """() => {
  const own = Element.prototype.animate;
  window.moved = 0;
  Element.prototype.animate = function (...all) {
    window.moved += 1;
    return own.apply(this, all);
  };
}"""


def test_less_motion_moves_nothing(server: PageServer, new_page: NewPage) -> None:
    moved = {}
    for motion in ("reduce", "no-preference"):
        page = new_page(server.url, reduced_motion=motion)
        page.evaluate(COUNT_ANIMATIONS)
        rank(page)
        wait_until_whole(page)
        moved[motion] = page.evaluate("window.moved")
    assert moved["reduce"] == 0
    assert moved["no-preference"] > 0


def test_without_javascript_the_page_says_where_to_go(server: PageServer, browser: Browser) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(server.url)
    said = page.locator("noscript p")
    expect(said).to_be_visible()
    assert said.inner_text().startswith("This page needs JavaScript.")
    assert said.locator("a").first.get_attribute("href") == "/docs"
    page.close()


@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_nothing_is_wider_than_the_page(server: PageServer, new_page: NewPage, width: int) -> None:
    page = new_page(server.url, width=width)
    page.get_by_label("Passages").fill("word " * 80 + "\n" + "x" * 500 + "\nshort")
    compare(page)
    wait_until_whole(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_playground(server: PageServer, new_page: NewPage, scheme: str) -> None:
    page = new_page(server.url, color_scheme=scheme)
    expect(page.get_by_label("Model", exact=True)).to_have_value("dear-tiny")
    assert accessibility_findings(page) == []
    page.get_by_text("Options").click()
    page.get_by_label("Passages").fill("a long passage " * 100 + "\nshort\nother")
    compare(page, "medical")
    wait_until_whole(page)
    page.locator(".timeline summary").first.click()
    assert accessibility_findings(page) == []
    server.engine.holds_at, server.engine.fails = 1, "the engine died"
    rank(page)
    wait_until_whole(page)
    assert accessibility_findings(page) == []
    page.get_by_role("button", name="Use a key").click()
    assert accessibility_findings(page) == []
