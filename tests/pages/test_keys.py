"""The playground of a server with keys: where a key is kept, what it shows, and limits."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from dear_serving.tenancy.tenants import IssuedKey, Limits
from tests.pages.conftest import NewPage, ranked, wait_until_whole
from tests.pages.test_playground import rank
from tests.support.browser import accessibility_findings
from tests.support.page_server import PageServer, page_server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server that asks for keys; medical is not for everybody."""
    with page_server(tmp_path_factory.mktemp("closed"), is_open=False) as running:
        assert running.gateway is not None
        running.gateway.lifecycle.adapters.share("medical", False, actor="test")
        yield running


def new_key(server: PageServer, tenant: str, **limits: int) -> IssuedKey:
    server.tenants.create(tenant, weight=1.0, limits=Limits(**limits), actor="test")
    return server.tenants.create_key(tenant, actor="test")


def give(page: Page, key: str) -> None:
    page.get_by_role("dialog").get_by_label("Key").fill(key)
    page.keyboard.press("Enter")


def test_a_key_is_asked_for_and_stays_in_the_tab(closed: PageServer, new_page: NewPage) -> None:
    key = new_key(closed, "acme").text
    page = new_page(closed.url)
    expect(page.get_by_role("dialog")).to_be_visible()
    give(page, "wrong")
    expect(page.get_by_role("dialog")).to_contain_text("The API key is not known.")
    assert accessibility_findings(page) == []
    give(page, key)
    models = page.get_by_label("Model", exact=True).locator("option")
    expect(models).to_have_text(["dear-tiny", "legal"])  # those of the tenant
    rank(page)
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]
    expect(page.locator("pre")).to_contain_text("Authorization: Bearer $DEAR_API_KEY")
    page.reload()
    expect(models).to_have_text(["dear-tiny", "legal"])
    kept = page.evaluate(
        "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
    )
    assert [key in one for one in kept] == [True, False, False, False]
    assert key not in page.content()


def test_a_key_can_be_forgotten(closed: PageServer, new_page: NewPage) -> None:
    page = new_page(closed.url)
    give(page, new_key(closed, "forgotten").text)
    page.get_by_role("button", name="Change key").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("dialog")).to_be_visible()  # nothing goes without one
    assert page.evaluate("sessionStorage.length") == 0
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("A key is needed.")


def test_a_key_that_expired_is_asked_for_again(closed: PageServer, new_page: NewPage) -> None:
    key = new_key(closed, "expiring")
    page = new_page(closed.url)
    give(page, key.text)
    rank(page)
    wait_until_whole(page)
    closed.tenants.revoke_key(key.key.id, actor="test")
    rank(page)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("A key is needed.")
    alert.get_by_role("button", name="Give a key").click()
    give(page, new_key(closed, "renewed").text)
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]


def test_a_limit_is_counted_down_and_then_tried_once_on_demand(closed: PageServer, new_page: NewPage) -> None:
    key = new_key(closed, "limited", requests_per_minute=1).text
    page = new_page(closed.url)
    page.clock.install()
    give(page, key)
    rank(page)
    wait_until_whole(page)
    rank(page)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Your limit is reached.")
    button = alert.get_by_role("button")
    expect(button).to_have_text(re.compile(r"^Try again in \d+ s$"))
    expect(button).to_be_disabled()
    closed.tenants.change("limited", {"requests_per_minute": None}, actor="test")
    page.clock.fast_forward("02:00")
    for _ in range(70):  # each second of the countdown is a timer of its own
        if button.is_enabled():
            break
        page.clock.fast_forward("00:01")
    expect(button).to_have_text("Try again")
    assert ranked(page) == []  # nothing was sent by itself
    button.click()
    wait_until_whole(page)
    assert ranked(page) == [4, 3, 2, 1, 0]
