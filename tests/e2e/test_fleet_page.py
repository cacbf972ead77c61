"""/fleet on the real server: what its engine reports, and a swap under load."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.e2e.conftest import ADMIN_KEY, Admin, Server, order_of
from tests.support.browser import browser, open_page
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["browser"]

pytestmark = pytest.mark.e2e


def test_replicas_report_under_the_names_of_their_metrics(admin: Admin, http: httpx.Client) -> None:
    found = admin.http.get("/replicas").json()["data"]
    (gateway,) = [one for one in found if one["role"] == "gateway"]
    (engine,) = [one for one in found if one["role"] == "engine"]
    assert (gateway["state"], gateway["current"]) == ("serving", True)
    assert (engine["state"], engine["current"]) == ("serving", True)
    assert engine["seen_by"] == {gateway["id"]: "serving"}
    assert "held" in engine["revisions"].values()
    metrics = http.get("/metrics").text
    assert f'dear_adapter_held{{replica="{engine["id"]}",revision="' in metrics
    assert re.search(rf'^vllm:num_requests_running{{.*replica="{engine["id"]}".*}}', metrics, re.MULTILINE)


def test_a_swap_on_the_page_while_lists_are_ranked(
    browser: Browser, server: Server, admin: Admin, http: httpx.Client
) -> None:
    from playwright.sync_api import expect

    name = "swapped-on-the-page"
    admin.register(name, "legal", activate=True)
    other = admin.register(name, "medical").json()["id"]
    before, after = order_of(http, "legal"), order_of(http, "medical")
    is_over, orders = threading.Event(), Counter[tuple[int, ...]]()

    def call() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as own:
            while not is_over.is_set():
                orders[order_of(own, name)] += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        with open_page(browser) as page:
            page.add_init_script(f"sessionStorage.setItem('dear.admin-key', '{ADMIN_KEY}')")
            page.goto(f"{server.url}/fleet")
            engine = page.locator("#engines .replica")
            expect(engine).to_contain_text("Serves")
            expect(engine).to_contain_text("drafted")
            expect(engine.locator("dd").filter(has_text=re.compile("run, .* wait"))).to_be_visible()
            expect(engine).to_contain_text(other)
            page.get_by_role("button", name=f"Activate {other}…").click()
            page.get_by_role("dialog").get_by_role("button", name="Activate").click()
            expect(page.locator("#live")).to_contain_text(f"{name} now serves {other}", timeout=30_000)
            page.get_by_role("button", name=f"Roll back {name}…").click()
            page.get_by_role("dialog").get_by_role("button", name="Roll back to").click()
            expect(page.locator("#changes li").first).to_contain_text("rolled back to", timeout=30_000)
    finally:
        is_over.set()
        caller.join()
    assert set(orders) == {before, after}
    assert eventually(lambda: order_of(http, name) == before)  # once the gateway has read it
    admin.do(name, "retire")
