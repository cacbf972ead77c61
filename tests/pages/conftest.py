"""The playground in a browser. Every test also checks that nothing broke the policy of its page, raised an
error or was fetched from elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.support.browser import browser, open_page
from tests.support.page_server import PageServer, page_server

__all__ = ["browser"]

NewPage = Callable[..., Page]

expect.set_options(timeout=20_000)  # the machine may be busy


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
    """Opens a URL for a new visitor; takes the options of open_page."""
    elsewhere: list[str] = []
    with contextlib.ExitStack() as opened:

        def make(url: str, **options: Any) -> Page:
            page = opened.enter_context(open_page(browser, **options))
            origin = url.partition("#")[0].rstrip("/")
            page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=origin)

            def note(request: Request) -> None:
                if not request.url.startswith((origin, "blob:", "about:")):
                    elsewhere.append(request.url)

            page.on("request", note)
            page.goto(url)
            return page

        yield make
    assert elsewhere == []


@pytest.fixture
def page(server: PageServer, new_page: NewPage) -> Page:
    """The playground, its models loaded."""
    page = new_page(server.url)
    expect(page.get_by_label("Model", exact=True)).to_have_value("dear-tiny")
    return page


def ranked(page: Page, place: int = 0) -> list[int]:
    """The passages of a column that are decided, best first."""
    items = page.locator(f"[data-place='{place}'] ol.ranks:not(.editor) > .item")
    return [int(one) for one in items.evaluate_all("all => all.map((one) => one.dataset.index)")]


def wait_until_whole(page: Page) -> None:
    """Return when no column works any more."""
    expect(page.locator(".column").first).to_be_visible()
    expect(page.locator(".column[aria-busy=true]")).to_have_count(0)
