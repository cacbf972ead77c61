"""The pages for people and their files, as a browser gets them."""

from __future__ import annotations

import dataclasses
import gzip
import re

import httpx
import pytest

from dear_serving.gateway.request_admission import RequestAdmission
from dear_serving.gateway.state import GatewayState
from tests.conftest import ROOT, client_of

PAGES = ("/", "/fleet")
FOLDER = ROOT / "serving" / "dear_serving" / "http" / "page"
FIRST_PAINT_BYTES = 100_000


def assets_in(page: str) -> list[str]:
    """The paths of all files that a page names."""
    return re.findall(r'(?:href|src)="(/page/[^"]+)"', page)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_and_all_its_files_come_without_a_key(with_tenants: GatewayState, path: str) -> None:
    async with client_of(with_tenants) as http:
        page = await http.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-cache"
        found = assets_in(page.text)
        assert len(found) > 4
        for one in found:
            reply = await http.get(one)
            assert reply.status_code == 200
            assert "immutable" in reply.headers["cache-control"]
            assert reply.content == (FOLDER / one.rpartition("/")[2]).read_bytes()


@pytest.mark.parametrize("path", PAGES)
async def test_first_paint_takes_less_than_100_kb(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path, headers={"accept-encoding": "gzip"})
    size = int(page.headers["content-length"])
    for one in assets_in(page.text):
        reply = await http.get(one, headers={"accept-encoding": "gzip"})
        assert reply.headers["content-encoding"] == "gzip"
        size += int(reply.headers["content-length"])
    assert 5_000 < size < FIRST_PAINT_BYTES


async def test_a_page_names_every_module_that_it_loads(http: httpx.AsyncClient) -> None:
    for path in PAGES:
        named = {one.rpartition("/")[2] for one in assets_in((await http.get(path)).text)}
        scripts = {name for name in named if name.endswith(".js")}
        loaded = set(scripts)
        for script in scripts:
            source = (FOLDER / script).read_text()
            loaded |= set(re.findall(r'^import .* from "\./([\w.]+)";$', source, re.MULTILINE))
        assert loaded == scripts, "a module that is not preloaded is asked for one round trip later"


async def test_pages_allow_no_inline_script_and_nothing_from_elsewhere(http: httpx.AsyncClient) -> None:
    for path in PAGES:
        reply = await http.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|https?://", reply.text)
    for file in FOLDER.iterdir():
        foreign = set(re.findall(r"https?://[\w./]+", file.read_text()))
        assert foreign <= {"http://www.w3.org/2000/svg"}, file.name


async def test_an_unchanged_page_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/")
    again = await http.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await http.get("/", headers={"if-none-match": '"something-else"'})
    assert other.status_code == 200


async def test_a_page_comes_plain_to_who_reads_no_gzip(http: httpx.AsyncClient) -> None:
    plain = await http.get("/", headers={"accept-encoding": "identity"})
    packed = await http.get("/", headers={"accept-encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert plain.text == packed.text
    assert len(gzip.compress(plain.content)) < len(plain.content)
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


async def test_a_page_of_another_release_gets_files_that_it_does_not_keep(http: httpx.AsyncClient) -> None:
    reply = await http.get("/page/0123456789abcdef/base.css")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name", ["nothing.js", "play.html", "..%2fpages.py", "%2e%2e/pages.py", "base.css%00", "__init__.py"]
)
async def test_nothing_but_the_files_of_the_pages_is_served(http: httpx.AsyncClient, name: str) -> None:
    reply = await http.get(f"/page/0123456789abcdef/{name}")
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "route_not_found"


async def test_the_pages_can_be_switched_off(gateway: GatewayState) -> None:
    http_settings = gateway.settings.http.model_copy(update={"page": False})
    settings = gateway.settings.model_copy(update={"http": http_settings})
    async with client_of(dataclasses.replace(gateway, settings=settings)) as http:
        for path in (*PAGES, "/page/0123456789abcdef/base.css"):
            assert (await http.get(path)).json()["error"]["code"] == "route_not_found"
        assert (await http.get("/docs")).status_code == 200


async def test_a_page_takes_no_place_of_a_request_and_counts_for_no_tenant(gateway: GatewayState) -> None:
    admission = RequestAdmission(1)
    full = dataclasses.replace(gateway, admission=admission)
    async with client_of(full) as http:
        with admission.permit(await gateway.authenticator.identify(None)):
            refused = await http.post("/v2/rerank", json={"query": "q", "documents": ["a", "b"]})
            assert refused.status_code == 429
            assert (await http.get("/")).status_code == 200
        text = (await http.get("/metrics")).text
    assert 'dear_tenant_requests_total{outcome="served"' not in text


async def test_other_methods_are_not_allowed_on_a_page(http: httpx.AsyncClient) -> None:
    reply = await http.post("/", json={})
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET, HEAD"
    head = await http.head("/")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/html; charset=utf-8")
