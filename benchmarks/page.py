"""What the page at / costs: bytes of a first visit, time to a first rank, what open pages take of a gateway.

Run it with: python -m benchmarks.page [--pairs 30] [--pages 50] [--rounds 12] [--path /] [--only first-rank]

Needs Debian's chromium. Three measurements, each printed when it is done:

- first visit: what a browser with an empty cache receives, by its own count.
- first rank: ``dear serve`` with configs/cpu.yaml. The same list is ranked in turns by the page (from the
  click to the first rank in the document) and by the API (from the request to the first event).
- open pages: a server as in benchmarks.gateway_rate gets load in turns of two seconds, with so many pages
  open and with their browser stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import httpx
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.gateway_rate import closed_loop, cpu_s, instant_server, loads
from benchmarks.server import CPU_CONFIG, Server

T = TypeVar("T")

ADMIN_KEY = "the-administrators"
QUERY = "When did Thomas Edison invent the light bulb?"
TURN_S = 2.0
SETTLE_S = 1.0  # what a browser does when it is let go on
CALLERS = 16

CLICK_TO_RANK = """() => new Promise((resolve) => {
  const started = performance.now();
  const watch = new MutationObserver(() => {
    if (!document.querySelector("ol.ranks > .item .score")) return;
    watch.disconnect();
    resolve(performance.now() - started);
  });
  document.querySelector("#results").replaceChildren();
  watch.observe(document.body, { childList: true, subtree: true });
  document.querySelector("#go").click();
})"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("there is no chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def new_page(browser: Browser, url: str) -> Page:
    """A page in a context of its own, with the admin key in its tab."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(f"sessionStorage.setItem('dear.admin-key', '{ADMIN_KEY}')")
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    return page


def first_paint_bytes(browser: Browser, url: str) -> tuple[int, int]:
    """Bytes and files that a first visit takes, headers included."""
    page = browser.new_context().new_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Network.enable")
    received: list[float] = []
    devtools.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    page.goto(url, wait_until="load")
    return int(sum(received)), len(received)


def first_rank_ms(url: str, passages: list[str]) -> float:
    """Milliseconds from a request to its first rank, by the API."""
    body = {
        "model": "dear-tiny",
        "query": QUERY,
        "documents": passages,
        "dear": {"stream": True, "explain": True},
    }
    with httpx.Client(base_url=url) as client:
        client.get("/v1/models")  # a connection is open then, as the page has one
        started_s = time.perf_counter()
        with client.stream("POST", "/v2/rerank", json=body) as reply:
            next(line for line in reply.iter_lines() if line.startswith("data:"))
            return (time.perf_counter() - started_s) * 1e3


def measure_first_rank(browser: Browser, url: str, pairs: int) -> None:
    """The page and the API in turns, on the light bulb's list; the first pairs warm up and do not count."""
    page = new_page(browser, url)
    passages = page.input_value("#passages").split("\n")
    by_page, by_api = [], []
    for _ in range(pairs + 3):
        by_page.append(page.evaluate(CLICK_TO_RANK))
        page.wait_for_selector(".column[aria-busy=false]")
        page.wait_for_timeout(100)
        by_api.append(first_rank_ms(url, passages))
    by_page, by_api = by_page[3:], by_api[3:]
    more = median(page - api for page, api in zip(by_page, by_api, strict=True))
    say(
        f"first rank, {pairs} pairs, medians: page {median(by_page):.1f} ms, API {median(by_api):.1f} ms, "
        f"the page's over the API's {more:+.1f} ms"
    )


def measure_open_pages(path: str, pages: int, rounds: int) -> None:
    """Load in turns, with and without open pages."""
    os.environ["DEAR_ADMIN_KEY"] = ADMIN_KEY
    with tempfile.TemporaryDirectory() as folder, instant_server(Path(folder)) as (url, settings):
        (load, bodies), *_ = loads(settings).values()
        with chromium() as browser:
            for _ in range(pages):
                new_page(browser, url + path)
            processes = [one for one in psutil.Process().children(recursive=True) if _is_browser(one)]
            rates: dict[bool, list[float]] = {True: [], False: []}
            costs: dict[bool, list[float]] = {True: [], False: []}
            sent, shares = requests_but(url, load), []
            for number in range(2 * rounds + 2):
                are_open = number % 2 == 0
                _signal(processes, signal.SIGCONT if are_open else signal.SIGSTOP)
                time.sleep(SETTLE_S)
                before_s = _cpu_s(processes)
                rate, cost = in_thread(turn(url, load, bodies))
                if number > 1:  # the first two warm up
                    rates[are_open].append(rate)
                    costs[are_open].append(cost)
                    shares.append((_cpu_s(processes) - before_s) / TURN_S)
            sent = requests_but(url, load) - sent
            _signal(processes, signal.SIGCONT)
    change = median(a / b for a, b in zip(rates[True], rates[False], strict=True)) - 1
    say(
        f"{pages} open pages at {path}, {rounds} rounds, medians: {median(rates[True]):.0f} requests/s and "
        f"{median(costs[True]):.2f} ms of processor time a request; without {median(rates[False]):.0f} and "
        f"{median(costs[False]):.2f}; requests/s {change:+.1%}. The pages sent {sent} requests, and their "
        f"browser took {max(shares):.0%} of a core at most"
    )


def requests_but(url: str, path: str) -> int:
    """Requests that the server has had, but for those of the load and of this question."""
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    text = httpx.get(f"{url}/metrics", headers=headers).text
    counted = re.findall(r'^dear_requests_total{route="([^"]+)".*} ([\d.e+]+)$', text, re.MULTILINE)
    return int(sum(float(number) for route, number in counted if route not in (path, "/metrics")))


async def turn(url: str, path: str, bodies: list[bytes]) -> tuple[float, float]:
    """Requests a second, and milliseconds of proxy and gateway a request."""
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        before, began_s = cpu_s(), time.monotonic()
        requests = await closed_loop(client, path, bodies, TURN_S, CALLERS)
        wall_s, after = time.monotonic() - began_s, cpu_s()
    used_s = sum(after.get(part, 0.0) - before.get(part, 0.0) for part in ("proxy", "gateway"))
    return requests / wall_s, used_s * 1e3 / requests


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine beside the browser driver's event loop, which is this thread's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _is_browser(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "chrom" in process.name()
    return False


def _cpu_s(processes: list[psutil.Process]) -> float:
    """Seconds of processor time so far."""
    used = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def say(text: str) -> None:
    """Print a result at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=["first-rank", "open-pages"])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--path", default="/", help="of the open pages")
    given = parser.parse_args()
    if given.only != "open-pages":
        with tempfile.TemporaryDirectory() as folder:
            server = Server(CPU_CONFIG, Path(folder) / "output.log")
            server.start()
            try:
                with chromium() as browser:
                    size, files = first_paint_bytes(browser, server.url)
                    say(f"first visit: {size / 1e3:.1f} kB in {files} files")
                    measure_first_rank(browser, server.url, given.pairs)
            finally:
                server.stop()
    if given.only != "first-rank":
        measure_open_pages(given.path, given.pages, given.rounds)


if __name__ == "__main__":
    main()
