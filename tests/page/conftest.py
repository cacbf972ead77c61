"""The pages in Debian's Chromium. Every test also checks that nothing broke the pages' policy, raised an
error or was fetched from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support.page_server import PageServer, page_server

expect.set_options(timeout=20_000)  # the machine may be busy

NewPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, for the tests of one file: its driver keeps an event loop in this thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A gateway over a fake engine, open to all."""
    with page_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(autouse=True)
def _engine_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        engine = request.getfixturevalue("server").engine
        engine.holds_at = engine.fails = None


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """Makes pages in contexts of their own; takes the options of Browser.new_context."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def make(url: str, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | options
        context = browser.new_context(**options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda message: _check_message(message.type, message.text, wrong))
        page.on("request", lambda request: _check_request(request.url, url, wrong))
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def _check_message(kind: str, text: str, wrong: list[str]) -> None:
    # The browser's own line for a reply of 4xx or a lost connection is no fault of the page.
    if kind in ("error", "warning") and "Failed to load resource" not in text:
        wrong.append(f"console: {text}")


def _check_request(url: str, origin: str, wrong: list[str]) -> None:
    if not url.startswith((origin.partition("#")[0].rstrip("/"), "blob:")):
        wrong.append(f"fetched {url}")


@pytest.fixture
def page(server: PageServer, new_page: NewPage) -> Page:
    """The playground, its models loaded."""
    page = new_page(server.url)
    expect(page.get_by_label("Model", exact=True)).to_have_value("dear-tiny")
    return page


def accessibility(page: Page) -> list[str]:
    """What axe finds wrong."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['target']}" for one in found for node in one["nodes"]]


def ranked(page: Page, place: int = 0) -> list[int]:
    """The passages of a column that are decided, best first."""
    items = page.locator(f"[data-place='{place}'] ol.ranks:not(.editor) > .item")
    return [int(one) for one in items.evaluate_all("all => all.map((one) => one.dataset.index)")]


def wait_until_whole(page: Page) -> None:
    """Return when no column works any more."""
    expect(page.locator(".column").first).to_be_visible()
    expect(page.locator(".column[aria-busy=true]")).to_have_count(0)
