"""Judging on the page, and the commands that read what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from typer.testing import CliRunner

from dear_serving.cli.main import app
from tests.pages.conftest import NewPage, wait_until_whole
from tests.support.browser import accessibility_findings
from tests.support.page_server import PageServer

pytestmark = pytest.mark.integration

QUERY = "When did Thomas Edison invent the light bulb?"


@pytest.fixture
def judging(page: Page) -> Page:
    """Two orders stand blind, and the question is asked."""
    page.get_by_role("button", name="Judge").click()
    page.get_by_role("button", name="Compare blind").click()
    wait_until_whole(page)
    expect(page.get_by_role("heading", name="Which order is better?")).to_be_focused()
    return page


def order(page: Page) -> list[int]:
    """The reader's own order; -1 is the line."""
    return [
        int(one)
        for one in page.locator(".editor > li").evaluate_all("all => all.map((one) => one.dataset.index)")
    ]


def order_by_model(page: Page, model: str) -> str:
    """The name of a model's order: the fake engine ranks the base from the last passage on."""
    first = page.locator("[data-place='0'] .item").first.get_attribute("data-index")
    return "Order 1" if (first == "4") == (model == "dear-tiny") else "Order 2"


def download(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name=button).click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def test_neither_models_nor_scores_are_seen_before_the_judgement(judging: Page) -> None:
    results = judging.locator("#results")
    for name in ("dear-tiny", "legal", "medical"):
        expect(results).not_to_contain_text(name)
    assert results.locator(".score").count() == 0
    judging.get_by_role("button", name="Order 1").click()
    judging.get_by_role("button", name="Save this judgement").click()
    expect(judging.get_by_text("Saved. Order 1 was")).to_contain_text("dear-tiny")


def test_sides_are_drawn_by_chance(page: Page) -> None:
    page.get_by_role("button", name="Judge").click()
    seen = set()
    for _ in range(40):  # all on one side: once in 10^12
        page.get_by_role("button", name="Compare blind").click()
        expect(page.get_by_role("heading", name="Which order is better?")).to_be_focused()
        seen.add(order_by_model(page, "legal"))
        if len(seen) == 2:
            break
    assert seen == {"Order 1", "Order 2"}


def test_an_order_is_made_by_keyboard(judging: Page) -> None:
    judging.get_by_role("button", name=order_by_model(judging, "legal")).click()
    assert order(judging) == [0, 1, 2, 3, 4, -1]
    judging.get_by_role("button", name="Move passage 4 up").focus()
    for _ in range(3):
        judging.keyboard.press("ArrowUp")
    expect(judging.get_by_role("status").last).to_have_text("Passage 4 is now 2 of 6")
    judging.keyboard.press("Enter")  # the button itself
    assert order(judging) == [4, 0, 1, 2, 3, -1]
    judging.get_by_role("button", name="Move the line up").focus()
    for _ in range(9):
        judging.keyboard.press("ArrowUp")
    judging.keyboard.press("ArrowDown")
    assert order(judging) == [4, -1, 0, 1, 2, 3]
    expect(judging.locator(":focus")).to_have_attribute("aria-label", "Move the line up")


def test_an_order_is_made_by_dragging(judging: Page) -> None:
    judging.get_by_role("button", name=order_by_model(judging, "legal")).click()
    item = judging.locator(".editor > [data-index='3']")
    item.scroll_into_view_if_needed()
    grip, target = item.locator(".grip"), judging.locator(".editor > [data-index='0']")
    grip.hover()
    judging.mouse.down()
    box = target.bounding_box()
    assert box is not None
    judging.mouse.move(box["x"] + 10, box["y"] + 2, steps=12)
    judging.mouse.up()
    assert order(judging) == [3, 0, 1, 2, 4, -1]
    judging.mouse.move(box["x"] + 10, box["y"] + 400, steps=5)  # let go
    assert order(judging) == [3, 0, 1, 2, 4, -1]


def test_what_was_judged_is_what_the_commands_read(judging: Page, tmp_path: Path) -> None:
    judging.get_by_role("button", name=order_by_model(judging, "legal")).click()
    judging.get_by_role("button", name="Move passage 4 up").focus()
    for _ in range(4):
        judging.keyboard.press("ArrowUp")
    judging.get_by_role("button", name="Move the line up").focus()
    for _ in range(3):
        judging.keyboard.press("ArrowUp")
    assert order(judging) == [4, 0, -1, 1, 2, 3]
    judging.get_by_role("button", name="Save this judgement").click()
    expect(judging.get_by_role("heading", name="1 judgement")).to_be_visible()
    expect(judging.get_by_text("legal: 1")).to_be_visible()
    judging.reload()  # the tab keeps them
    expect(judging.get_by_role("heading", name="1 judgement")).to_be_visible()

    lists = download(judging, "Training lists", tmp_path)
    (line,) = lists.read_text().splitlines()
    assert json.loads(line)["query"] == QUERY
    assert json.loads(line)["better"] == "legal"
    done = CliRunner().invoke(app, ["training-data", str(lists), "--template", "chat"])
    assert done.exit_code == 0, done.output
    *shown, answer = json.loads(done.stdout)["messages"]
    places = [int(one.strip("[] ")) for one in answer["content"].split(">")]
    passages = [turn["content"] for turn in shown if turn["content"].startswith("[")]
    by_place = {int(one[1 : one.index("]")]): one.partition("] ")[2] for one in passages}
    assert by_place[places[0]] == "Thomas Edison invented the light bulb in 1879"
    assert by_place[places[1]] == "Lightning strike at Seoul National University"

    qrels = download(judging, "Qrels", tmp_path)
    assert qrels.read_text().splitlines() == [
        "q1 0 q1-4 2",
        "q1 0 q1-0 1",
        "q1 0 q1-1 0",
        "q1 0 q1-2 0",
        "q1 0 q1-3 0",
    ]
    candidates = download(judging, "Candidates", tmp_path)
    command = [sys.executable, "-m", "dear_serving", "eval", "--ranker", "oracle", "--json"]
    command += ["--candidates", str(candidates), "--qrels", str(qrels), "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    report = (tmp_path / "out" / "run.trec").read_text().split("\n")
    assert [line.split()[2] for line in report[:2]] == ["q1-4", "q1-0"]


def test_a_list_judged_again_counts_once_and_all_can_be_deleted(judging: Page) -> None:
    for better in ("dear-tiny", "legal"):
        judging.get_by_role("button", name=order_by_model(judging, better)).click()
        judging.get_by_role("button", name="Save this judgement").click()
        expect(judging.get_by_role("heading", name="1 judgement")).to_be_visible()
        expect(judging.get_by_text(f"{better}: 1")).to_be_visible()
        judging.get_by_role("button", name="Compare blind").click()
        expect(judging.get_by_role("heading", name="Which order is better?")).to_be_focused()
    judging.get_by_role("button", name="Delete all").click()
    expect(judging.get_by_role("heading", name="No judgements yet")).to_be_visible()
    assert judging.evaluate("sessionStorage.length") == 0


def test_orders_that_are_the_same_are_said_to_be(server: PageServer, page: Page) -> None:
    page.get_by_role("button", name="Judge").click()
    page.get_by_label("Model A").select_option("legal")
    page.get_by_label("Model B").select_option("medical")
    page.get_by_role("button", name="Compare blind").click()
    expect(page.get_by_role("heading", name="Both orders are the same")).to_be_visible()
    assert order(page) == [0, 1, 2, 3, 4, -1]


def test_one_model_cannot_be_judged_against_itself(page: Page) -> None:
    page.get_by_role("button", name="Judge").click()
    page.get_by_label("Model B").select_option("dear-tiny")
    page.get_by_role("button", name="Compare blind").click()
    expect(page.get_by_role("alert")).to_contain_text("Judging needs two different models")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_while_judging(server: PageServer, new_page: NewPage, scheme: str) -> None:
    page = new_page(server.url, color_scheme=scheme)
    page.get_by_role("button", name="Judge").click()
    page.get_by_role("button", name="Compare blind").click()
    page.get_by_role("button", name="Both alike").click()
    assert accessibility_findings(page) == []
    page.get_by_role("button", name="Save this judgement").click()
    assert accessibility_findings(page) == []
