"""The playground on the real engine: the light bulb by keyboard alone, and adapters that differ."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from dear_serving.cli.demo import EXAMPLES, Example
from tests.e2e.conftest import Server
from tests.pages.conftest import NewPage, new_page, ranked, wait_until_whole
from tests.support.browser import accessibility_findings, browser

__all__ = ["browser", "new_page"]

pytestmark = pytest.mark.e2e


@pytest.fixture
def page(server: Server, new_page: NewPage) -> Page:
    """The playground of the real server."""
    page = new_page(server.url)
    expect(page.get_by_label("Model", exact=True)).to_have_value("dear-tiny")
    return page


def test_the_light_bulb_is_ranked_by_keyboard_alone(page: Page) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text() == "Rank" and page.locator("#go:focus").count():
            break
    page.keyboard.press("Enter")
    wait_until_whole(page)
    assert ranked(page) == list(EXAMPLES[0].order)
    assert ranked(page)[0] == 4
    expect(page.get_by_role("status")).to_contain_text("1: [4] Thomas Edison invented the light bulb in 1879")


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda example: example.model)
def test_adapters_beside_the_base_differ_as_the_demo_says(page: Page, example: Example) -> None:
    name = {"legal": "Parking permit", "medical": "Aspirin"}[example.model or ""]
    page.get_by_role("button", name=name).click()
    page.get_by_label("Query").press("Control+Enter")
    wait_until_whole(page)
    assert ranked(page, 1) == list(example.order)
    assert ranked(page, 0) != ranked(page, 1)
    expect(page.get_by_label("Agreement")).to_contain_text("Kendall")
    expect(page.get_by_label(f"How {example.model} ranked")).to_contain_text(f"{example.model}@")
    assert accessibility_findings(page) == []
