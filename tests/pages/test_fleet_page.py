"""/fleet in a browser, before gateways that are real and engines that only pretend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import accessibility_findings, browser, is_wider_than_its_window, open_page
from tests.support.fake_fleet import ENGINES, GATEWAYS, FakeFleet, fake_fleet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

__all__ = ["browser"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HOSTILE = '<img src=x onerror="window.hacked=1"> ‮txet \U0001f9ef <script>window.hacked=1</script>'


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeFleet]:
    with fake_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
def fleet(shared_fleet: FakeFleet) -> Iterator[FakeFleet]:
    """A fleet that runs, and pretends nothing."""
    yield shared_fleet
    shared_fleet.tell(engines={}, load_s=0.0, silent=False, scorers=[])


@pytest.fixture
def page(browser: Browser, fleet: FakeFleet) -> Iterator[Page]:
    """The page of somebody who gave the admin key already."""
    with open_page(browser) as opened:
        give_key(opened)
        opened.goto(f"{fleet.url}/fleet")
        opened.locator("#fleet").wait_for()
        yield opened


def give_key(page: Page, key: str = "root") -> None:
    page.add_init_script(f"sessionStorage.setItem('dear.admin-key', {json.dumps(key)})")


def expect(where: Locator) -> Any:
    from playwright.sync_api import expect

    return expect(where)


def adapter(page: Page, name: str) -> Locator:
    return page.locator(".adapter").filter(has=page.get_by_role("heading", name=name, exact=True))


def revision(page: Page, name: str, id: str) -> Locator:
    return adapter(page, name).get_by_role("row").filter(has_text=id.partition("@")[2])


def of(fleet: FakeFleet, name: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.admin("GET", f"/adapters/{name}")
    return found


def staged(fleet: FakeFleet, name: str) -> str:
    """A revision that is staged and not active."""
    found = of(fleet, name)
    return next(
        str(one["id"])
        for one in found["revisions"]
        if one["id"] != found["active"] and one["state"] not in ("failed", "registered")
    )


# The key.


def test_the_key_is_asked_for_and_stays_in_the_tab(browser: Browser, fleet: FakeFleet) -> None:
    with open_page(browser) as page:
        page.goto(f"{fleet.url}/fleet")
        dialog = page.get_by_role("dialog", name="Admin key")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("does not take this key")
        assert page.locator("#fleet").is_hidden()
        page.keyboard.type("root")
        page.keyboard.press("Enter")
        expect(page.locator("#state-text")).to_have_text("Live")
        assert page.evaluate("[...Object.values(sessionStorage)]") == ["root"]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert "root" not in page.url
        page.reload()
        expect(page.locator("#state-text")).to_have_text("Live")
        assert "root" not in page.content()


def test_who_gives_no_key_sees_what_the_page_is_for(browser: Browser, fleet: FakeFleet) -> None:
    with open_page(browser) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{fleet.url}/fleet")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Give the admin key")).to_be_visible()
        assert not [url for url in asked if "/admin/" in url or "/metrics" in url]


def test_a_key_that_is_not_good_any_more_is_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    with fake_fleet(tmp_path) as fleet, open_page(browser) as page:
        give_key(page)
        page.goto(f"{fleet.url}/fleet")
        expect(page.locator("#state-text")).to_have_text("Live")
        # The server restarts under the page, with another key.
        fleet.stop()
        expect(page.locator("#state-text")).to_contain_text("No answer, last seen")
        expect(page.locator("#trouble")).to_contain_text("What you see is from before")
        expect(page.get_by_role("heading", name="contracts")).to_be_visible()
        fleet.tell(key="another")
        fleet.start()
        dialog = page.get_by_role("dialog", name="Admin key")
        expect(dialog).to_contain_text("not any more", timeout=45_000)
        page.keyboard.type("another")
        page.keyboard.press("Enter")
        expect(page.locator("#state-text")).to_have_text("Live")
        expect(page.locator("#trouble")).to_be_empty()


# What is shown.


def test_all_of_the_fleet_is_there(page: Page, fleet: FakeFleet) -> None:
    for name in (*ENGINES, *GATEWAYS):
        expect(page.locator(".replica").filter(has_text=name)).to_contain_text("Serves")
    held = of(fleet, "contracts")["active"]
    expect(page.locator("#engines .replica").first).to_contain_text(held)
    expect(page.locator("#engines .replica").first).to_contain_text("drafted")
    expect(revision(page, "contracts", held)).to_contain_text("2 of 2 engines")
    expect(page.locator("#tenants")).to_contain_text("umbrella-research")
    expect(page.locator("#tenants tr").filter(has_text="acme")).to_contain_text(
        "6K requests/min, 2M tokens/min"
    )
    expect(page.locator("#changes li").filter(has_text="admin").first).to_be_visible()
    expect(page.locator("#tiles li").first).to_contain_text("2 of 2 serve")


def test_work_and_refusals_show_within_seconds(page: Page, fleet: FakeFleet) -> None:
    import httpx

    key = fleet.admin("POST", "/tenants/initech/keys", {})["key"]
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=fleet.url, headers=headers) as http:
        statuses = [
            http.post("/v2/rerank", json={"query": "q", "documents": ["a", "b"]}).status_code
            for _ in range(40)
        ]
    assert 429 in statuses
    row = page.locator("#tenants tr").filter(has_text="initech")
    expect(row.locator(".tag.warn")).to_be_visible()
    expect(page.locator("#times-summary")).to_contain_text("most time went into")
    expect(page.locator("#tiles li").filter(has_text="Time of a request")).to_contain_text("p95")


def test_an_engine_that_fails_is_shown_and_said(page: Page, fleet: FakeFleet) -> None:
    bad, good = ENGINES
    fleet.tell(engines={bad: "left_out"})
    card = page.locator(".replica").filter(has_text=bad)
    expect(card).to_contain_text("Left out")
    expect(card).to_contain_text("All gateways see it so")
    expect(page.locator("#live")).to_contain_text(f"engine {bad}: Left out")
    expect(page.locator("#tiles li").first).to_contain_text("1 of 2 serve")
    fleet.tell(engines={bad: "unknown", good: "silent"})
    expect(card).to_contain_text("Starts")
    expect(page.locator(".replica").filter(has_text=good)).to_contain_text("Silent")
    expect(page.locator("#tiles li").first).to_contain_text("0 of 2 serve")


def test_engines_of_a_first_stage_have_a_place_of_their_own(page: Page, fleet: FakeFleet) -> None:
    expect(page.get_by_role("heading", name="First stage")).to_be_hidden()
    fleet.tell(scorers=["sc0rer"])
    card = page.get_by_role("list", name="First stage").get_by_role("listitem").filter(has_text="sc0rer")
    expect(card).to_contain_text("Serves")
    expect(card).to_contain_text("Calls2")
    assert card.get_by_text("KV cache").count() == card.get_by_text("no adapters").count() == 0
    expect(page.locator("#tiles li").first).to_contain_text("2 of 2 serve")
    fleet.tell(scorers=[])
    expect(page.get_by_role("heading", name="First stage")).to_be_hidden()


def test_a_gateway_that_does_not_answer_is_shown(page: Page, fleet: FakeFleet) -> None:
    fleet.tell(silent=True)
    expect(page.locator(".replica").filter(has_text=GATEWAYS[1])).to_contain_text("It does not answer")
    fleet.tell(silent=False)
    expect(page.locator(".replica").filter(has_text=GATEWAYS[1])).to_contain_text("0 requests in flight")


def test_hostile_texts_are_shown_as_text(browser: Browser, fleet: FakeFleet) -> None:
    def answer(change: Callable[[Any], Any]) -> Callable[[Route], None]:
        def handle(route: Route) -> None:
            reply = route.fetch()
            route.fulfill(response=reply, json=change(reply.json()))

        return handle

    def audit(found: Any) -> Any:
        found["data"].insert(0, found["data"][0] | {"subject": HOSTILE, "detail": {HOSTILE: [HOSTILE]}})
        return found

    def adapters(found: Any) -> Any:
        found["data"][0]["name"] = HOSTILE
        found["data"][0]["revisions"][0] |= {"reason": HOSTILE, "template": HOSTILE}
        return found

    def replicas(found: Any) -> Any:
        found["data"][-1] |= {"id": HOSTILE, "state": HOSTILE, "revisions": {HOSTILE: HOSTILE}}
        return found

    def tenants(found: Any) -> Any:
        found["data"][0]["id"] = HOSTILE
        return found

    with open_page(browser) as page:
        give_key(page)
        for name, change in {
            "audit": audit,
            "adapters": adapters,
            "replicas": replicas,
            "tenants": tenants,
        }.items():
            page.route(f"**/admin/v1/{name}*", answer(change))
        page.goto(f"{fleet.url}/fleet")
        for place in ("#changes", "#adapters", "#engines", "#tenants"):
            expect(page.locator(place)).to_contain_text('<img src=x onerror="window.hacked=1">')
        assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert page.evaluate("window.hacked") is None


def test_a_revision_that_failed_says_why(page: Page) -> None:
    failed = adapter(page, "patents").get_by_role("row").filter(has_text="Failed")
    expect(failed).to_contain_text("<b>the rank of layer 3</b> is too high")


def test_many_tenants_are_filtered(page: Page, fleet: FakeFleet) -> None:
    for number in range(60):
        fleet.admin("POST", "/tenants", {"id": f"bulk-{number}"})
    try:
        expect(page.get_by_role("button", name="Show all 6")).to_be_visible()
        assert page.locator("#tenants tr").count() == 50
        page.get_by_label("Filter").fill("bulk-5")
        expect(page.locator("#tenants tr")).to_have_count(11)
        page.get_by_label("Filter").fill("")
        page.get_by_role("button", name="Show all").click()
        expect(page.locator("#tenants tr")).to_have_count(65)
    finally:
        for number in range(60):
            fleet.admin("DELETE", f"/tenants/bulk-{number}")


# Swaps.


def test_a_swap_is_asked_for_and_watched_by_keyboard_alone(page: Page, fleet: FakeFleet) -> None:
    old, new = of(fleet, "contracts")["active"], staged(fleet, "contracts")
    button = page.get_by_role("button", name=f"Activate {new}…")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Activate on contracts?")
    expect(dialog).to_contain_text(old.partition("@")[2])
    expect(dialog).to_contain_text(new.partition("@")[2])
    expect(dialog).to_contain_text("All tenants get the other revision for new requests")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    assert of(fleet, "contracts")["active"] == old

    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(revision(page, "contracts", new)).to_contain_text("Active")
    expect(page.locator("#live")).to_contain_text(f"contracts now serves {new}")
    assert of(fleet, "contracts")["active"] == new
    expect(page.locator("#changes li").first).to_contain_text(f"admin activated {new}")
    # Its button is gone; the focus is where it was.
    expect(page.get_by_role("heading", name="contracts")).to_be_focused()


def test_a_revision_that_the_engines_load_first_is_watched_on_its_way(page: Page, fleet: FakeFleet) -> None:
    old, other = of(fleet, "contracts")["active"], staged(fleet, "contracts")
    fleet.admin("POST", "/adapters/contracts/retire", {"revision": other})
    expect(revision(page, "contracts", other)).to_contain_text("Retired")
    fleet.tell(load_s=3.0)
    page.get_by_role("button", name=f"Activate {other}…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("0 of 2 engines hold it. The others load and try it first")
    dialog.get_by_role("button", name="Activate").click()
    expect(revision(page, "contracts", other)).to_contain_text("Loading")
    expect(revision(page, "contracts", old)).to_contain_text("Active")
    expect(revision(page, "contracts", other)).to_contain_text("Active")
    expect(revision(page, "contracts", other)).to_contain_text("2 of 2 engines")


def test_a_rollback_asks_first_and_says_what_it_goes_back_to(page: Page, fleet: FakeFleet) -> None:
    found = of(fleet, "clinic/cardiology")
    page.get_by_role("button", name="Roll back clinic/cardiology…").click()
    dialog = page.get_by_role("dialog", name="Roll back clinic/cardiology?")
    expect(dialog).to_contain_text("The tenants with a grant get the other revision")
    digest = found["previous"].partition("@")[2]
    dialog.get_by_role("button", name=f"Roll back to {digest}").click()
    expect(revision(page, "clinic/cardiology", found["previous"])).to_contain_text("Active")
    expect(page.locator("#changes li").first).to_contain_text(f"rolled back to {found['previous']}")
    expect(page.get_by_role("button", name="Roll back clinic/cardiology…")).to_be_focused()


def test_a_swap_by_somebody_else_changes_the_question(page: Page, fleet: FakeFleet) -> None:
    now, other = of(fleet, "contracts")["active"], staged(fleet, "contracts")
    page.get_by_role("button", name="Roll back contracts…").click()
    dialog = page.get_by_role("dialog", name="Roll back contracts?")
    before = dialog.locator("form > .row.end button").last.inner_text()
    fleet.admin("POST", "/adapters/contracts/activate", {"revision": other})
    expect(dialog.locator(".note")).to_have_text(re.compile("It was switched while you looked"))
    after = dialog.locator("form > .row.end button").last
    expect(after).not_to_have_text(before)
    expect(after).to_have_text(f"Roll back to {now.partition('@')[2]}")


def test_a_refused_swap_says_why_and_changes_nothing(page: Page, fleet: FakeFleet) -> None:
    old, new = of(fleet, "contracts")["active"], staged(fleet, "contracts")
    page.route(
        "**/activate",
        lambda route: route.fulfill(
            status=409,
            json={
                "message": "the engines hold 8 revisions",
                "error": {"message": "the engines hold 8 revisions", "code": "capacity_reached"},
            },
        ),
    )
    page.get_by_role("button", name=f"Activate {new}…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Activate").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The engines hold 8 revisions")
    expect(dialog.get_by_role("button", name="Activate")).to_be_enabled()
    page.keyboard.press("Escape")
    assert of(fleet, "contracts")["active"] == old


# When to ask.


def test_a_429_counts_down_and_asks_when_told_to(page: Page) -> None:
    asked: list[str] = []
    page.route(
        "**/admin/v1/replicas",
        lambda route: route.fulfill(
            status=429,
            headers={"retry-after": "2"},
            json={"error": {"message": "too many requests", "code": "rate_limit_exceeded"}},
        ),
    )
    button = page.locator("#trouble button")
    expect(button).to_have_text(re.compile("Try again in [12] s"))
    expect(button).to_be_disabled()
    page.on("request", lambda request: asked.append(request.url))
    expect(button).to_have_text("Try again")
    assert asked == []
    page.unroute("**/admin/v1/replicas")
    button.click()
    expect(page.locator("#state-text")).to_have_text("Live")
    assert asked


def test_a_hidden_or_paused_page_asks_for_nothing(page: Page) -> None:
    asked: list[str] = []

    def hide(hidden: bool) -> None:
        page.evaluate(
            "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    hide(True)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4500)
    assert asked == []
    with page.expect_request("**/admin/v1/replicas"):
        hide(False)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state-text")).to_contain_text("Paused")
    asked.clear()
    page.wait_for_timeout(4500)
    assert asked == []
    with page.expect_request("**/admin/v1/replicas"):
        page.get_by_role("button", name="Go on").click()


def test_part_of_it_may_fail_and_the_rest_is_new(page: Page) -> None:
    refusal = {"message": "the registry does not answer", "code": "registry_unavailable"}
    page.route("**/admin/v1/**", lambda route: route.fulfill(status=503, json={"error": refusal}))
    expect(page.locator("#part")).to_contain_text("the registry does not answer")
    expect(page.get_by_role("heading", name="contracts")).to_be_visible()
    page.unroute("**/admin/v1/**")
    expect(page.locator("#part")).to_be_hidden(timeout=20_000)


# For everybody.


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(browser: Browser, fleet: FakeFleet, scheme: str, width: int) -> None:
    with open_page(browser, width=width, color_scheme=scheme, reduced_motion="reduce") as page:
        page.goto(f"{fleet.url}/fleet")
        assert accessibility_findings(page) == []
        page.keyboard.press("Escape")
        assert accessibility_findings(page) == []
        page.evaluate("sessionStorage.setItem('dear.admin-key', 'root')")
        page.reload()
        page.locator("#fleet").wait_for()
        fleet.tell(engines={ENGINES[0]: "left_out"})
        expect(page.locator(".replica").filter(has_text=ENGINES[0])).to_contain_text("Left out")
        assert accessibility_findings(page) == []
        page.get_by_role("button", name="Roll back contracts…").click()
        page.get_by_role("dialog").wait_for()
        assert accessibility_findings(page) == []


@pytest.mark.parametrize("width", [360, 768, 1280, 1920, 2560])
def test_nothing_is_wider_than_the_window(browser: Browser, fleet: FakeFleet, width: int) -> None:
    with open_page(browser, width=width) as page:
        give_key(page)
        page.goto(f"{fleet.url}/fleet")
        page.locator("#fleet").wait_for()
        assert not is_wider_than_its_window(page)
        page.get_by_role("button", name="Roll back contracts…").click()
        box = page.get_by_role("dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_without_javascript_the_page_says_what_to_use(browser: Browser, fleet: FakeFleet) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{fleet.url}/fleet")
    said = page.locator("noscript p")
    expect(said).to_be_visible()
    assert said.inner_text().startswith("This page needs JavaScript.")
    assert "dear replicas" in said.inner_text()
    context.close()
