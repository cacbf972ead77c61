"""Debian's Chromium under Playwright, and what every page is watched for while a test uses it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""
_WIDEST_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of one file; without one they are skipped. Its driver runs an event loop in
    this thread, in which no test on asyncio could run beside it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Faults:
    """What went wrong in a page; replies with an error are none."""

    found: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Note the page's errors from now on."""
        page.add_init_script(_WATCH)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.found.append(f"console: {message.text}")

    def check(self, page: Page) -> None:
        """Fail where something went wrong, or the page's policy was violated."""
        assert self.found == []
        assert page.evaluate("window.violations") == []


@contextlib.contextmanager
def open_page(browser: Browser, *, width: int = 1280, height: int = 900, **more: Any) -> Iterator[Page]:
    """A page of a new visitor, watched for faults."""
    context = browser.new_context(viewport={"width": width, "height": height}, **more)
    context.set_default_timeout(15_000)
    page, faults = context.new_page(), Faults()
    faults.watch(page)
    try:
        yield page
        faults.check(page)
    finally:
        context.close()


def accessibility_findings(page: Page) -> list[str]:
    """What axe-core finds in the page as it is, in one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page, options={"runOnly": _WIDEST_RULES, "resultTypes": ["violations"]})
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


def is_wider_than_its_window(page: Page) -> bool:
    """Whether a reader would have to scroll sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
