"""What the fleet's page reads out of two pages of metrics, beside what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tests.support.browser import browser, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

from tests.conftest import ROOT

__all__ = ["browser"]

pytestmark = pytest.mark.integration

MODULE = (ROOT / "serving" / "dear_serving" / "http" / "page" / "prometheus.js").read_text()
HARD = 'quo"te \\ back\nline {a="b"} ,'
READ = """
async ([texts, wanted, ask]) => {
  const { Reading, Between, History } = await import("/prometheus.js");
  const readings = texts.map((text, index) => new Reading(text, index * 60000, new Set(wanted)));
  return new Function("readings", "Between", "History", `return ${ask}`)(readings, Between, History);
}
"""


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A page that has the module, and nothing else."""
    with open_page(browser) as opened:
        opened.route("**/", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        opened.route(
            "**/prometheus.js", lambda route: route.fulfill(body=MODULE, content_type="text/javascript")
        )
        opened.goto("http://metrics.test/")
        yield opened


def read(page: Page, texts: list[str], wanted: list[str], ask: str) -> Any:
    return page.evaluate(READ, [texts, wanted, ask])


def text_of(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_samples_come_with_their_labels_and_values(page: Page) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("g", "A gauge.", ("name", "other"), registry=registry)
    gauge.labels(HARD, "x").set(2.5e-7)
    gauge.labels("plain", "x").set(float("inf"))
    gauge.labels("none", "x").set(float("nan"))
    Gauge("unwanted", "Left out.", registry=registry).set(1)
    text = text_of(registry)
    found = read(page, [text], ["g"], "readings[0].of('g').map(({labels, value}) => [labels.name, value])")
    assert found == [[HARD, 2.5e-7], ["plain", float("inf")]]
    assert read(page, [text], ["g"], "readings[0].has('unwanted')") is False
    assert read(page, [text], ["g"], "readings[0].sum('g', {name: (one) => one !== 'plain'})") == 2.5e-7
    assert read(page, ["", "no metrics\n{} 1\n"], ["g"], "readings[1].sum('g')") == 0


def test_rates_are_of_the_time_between_and_a_fall_is_no_rate(page: Page) -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "A counter.", ("tenant",), registry=registry)
    counter.labels("acme").inc(5)
    counter.labels("gone").inc(100)
    before = text_of(registry)
    counter.labels("acme").inc(7)
    counter.labels("new").inc(3)
    counter.remove("gone")
    counter.labels("gone").inc(40)  # its gateway ended, and another one counts
    ask = "new Between(...readings).aMinute('c_total')"
    assert read(page, [before, text_of(registry)], ["c_total"], ask) == 10


def test_quantiles_are_those_of_the_time_between(page: Page) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "A histogram.", buckets=(1.0, 2.0, 4.0), registry=registry)
    for _ in range(100):
        histogram.observe(0.5)
    before = text_of(registry)
    for seconds in (1.5, 1.5, 3.0, 100.0):
        histogram.observe(seconds)
    wanted = ["h_bucket", "h_count", "h_sum"]
    ask = "(({count, mean, quantile}) => [count, mean, quantile(0.5), quantile(0.75), quantile(1)])"
    found = read(page, [before, text_of(registry)], wanted, f"{ask}(new Between(...readings).histogram('h'))")
    # As histogram_quantile of PromQL: straight within a bucket, and the last edge for what is above it.
    assert found == [4, 26.5, 2.0, 4.0, 4.0]
    assert read(page, [before, before], wanted, f"{ask}(new Between(...readings).histogram('h'))") == [0] * 5


def test_readings_that_other_gateways_answered_are_not_compared(page: Page) -> None:
    texts = [f"answered {answered}\nc_total {count}\n" for answered, count in ((2, 50), (1, 20), (1, 29))]
    history = (
        "(() => { const history = new History(1e9, (a, b) => a.sum('answered') === b.sum('answered'));"
        " const found = []; for (const one of readings) { history.add(one);"
        " found.push(history.last(1e6)?.count('c_total') ?? null); } return found; })()"
    )
    assert read(page, texts, ["answered", "c_total"], history) == [None, None, 9]


def test_a_reading_from_before_the_newest_is_left_out(page: Page) -> None:
    history = (
        "(() => { const history = new History(1e9, () => true);"
        " [1, 0, 2].forEach((one) => history.add(readings[one]));"
        " return history.within(1e9).map((one) => one.at); })()"
    )
    assert read(page, ["", "", ""], [], history) == [60000, 120000]
