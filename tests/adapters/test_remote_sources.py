"""URLs that adapters come from: what lies outside of an allowed source is not fetched."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dear_serving.adapters.base_shape import BaseShape
from dear_serving.adapters.intake import Intake
from dear_serving.adapters.preflight import FILES, digest
from dear_serving.adapters.store import Store
from dear_serving.errors import InvalidAdapterFiles
from tests.conftest import ROOT

pytestmark = pytest.mark.attack

DEMO = ROOT / "configs" / "demo"
BASE = BaseShape.from_config(json.loads((DEMO / "base" / "config.json").read_text()))


class Files(ThreadingHTTPServer):
    """Serves a folder over HTTP; redirects what it is told to. Remembers the requests that it got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.redirects: dict[str, str] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """With a slash at its end."""
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    """Answers for Files."""

    server: Files

    def send_head(self):  # type: ignore[no-untyped-def]
        self.directory = str(self.server.folder)
        self.server.requests.append(self.path)
        for start, target in self.server.redirects.items():
            if self.path.startswith(start):
                self.send_response(302)
                self.send_header("Location", target + self.path.removeprefix(start))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """A server with an adapter in ``allowed/``, and one beside it in ``secret/``."""
    yield from serving(tmp_path / "web")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Files]:
    """A server on another port, with the same files."""
    yield from serving(tmp_path / "other")


def serving(folder: Path) -> Iterator[Files]:
    for place in ("allowed", "secret"):
        shutil.copytree(DEMO / "adapters" / "legal", folder / place / "legal")
    with Files(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def intake(folder: Path, *sources: str) -> Intake:
    """Takes adapters from these URLs."""
    return Intake(
        root=folder,
        sources=sources,
        scratch=folder / "scratch",
        base=BASE,
        max_rank=16,
        store=Store(str(folder / "store")),
    )


def test_an_adapter_in_an_allowed_source_is_fetched(files: Files, tmp_path: Path) -> None:
    taken = intake(tmp_path, f"{files.url}allowed/").take("legal", f"{files.url}allowed/legal")
    assert taken.digest == digest(DEMO / "adapters" / "legal")


def test_a_name_that_is_percent_encoded_is_fetched(files: Files, tmp_path: Path) -> None:
    (files.folder / "allowed" / "legal").rename(files.folder / "allowed" / "le gal")
    taken = intake(tmp_path, f"{files.url}allowed/").take("legal", f"{files.url}allowed/le%20gal")
    assert taken.digest == digest(DEMO / "adapters" / "legal")


OUTSIDE = [
    "../secret/legal",
    "%2e%2e/secret/legal",
    "%2E./secret/legal",
    "legal/%2e%2e/%2e%2e/secret/legal",
    "%252e%252e/secret/legal",
    "%25252e%25252e/secret/legal",
    "%2e%2e%2fsecret/legal",
    "..%2fsecret/legal",
    "..\\secret/legal",
    "%2e%2e%5csecret/legal",
    ".\t./secret/legal",
    ".%09./secret/legal",
    "%2e%2e",
    "./legal",
    "legal?file=../secret",
    "legal#x",
    "legal::file:///etc",
    "legal\x00",
    "%c0%ae%c0%ae/secret/legal",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_outside_a_source_is_refused_and_nothing_is_fetched(
    path: str, files: Files, tmp_path: Path
) -> None:
    source = f"{files.url}allowed/{path}"
    with pytest.raises(
        InvalidAdapterFiles, match=r'adapter "legal": .* is not under one of adapters.sources'
    ):
        intake(tmp_path, f"{files.url}allowed/").take("legal", source)
    assert files.requests == []


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_the_rule_is_the_same_for_every_scheme(scheme: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterFiles, match=r"is not under one of adapters.sources"):
        intake(tmp_path, f"{scheme}://models/a/").take("legal", f"{scheme}://models/a/{path}")


@pytest.mark.parametrize("same_host", [True, False])
def test_a_redirect_is_refused_and_not_followed(
    same_host: bool, files: Files, other: Files, tmp_path: Path
) -> None:
    target = files if same_host else other
    files.redirects["/allowed/moved/"] = f"{target.url}secret/legal/"
    source = f"{files.url}allowed/moved"
    with pytest.raises(InvalidAdapterFiles) as failure:
        intake(tmp_path, f"{files.url}allowed/").take("legal", source)
    assert failure.value.message == f'adapter "legal": {source} redirects, and redirects are not followed'
    assert other.requests == []
    assert [path for path in files.requests if path.startswith("/secret/")] == []


def test_a_redirect_of_the_weights_alone_is_refused(files: Files, other: Files, tmp_path: Path) -> None:
    files.redirects[f"/allowed/legal/{FILES[0]}"] = f"{other.url}secret/legal/{FILES[0]}"
    with pytest.raises(InvalidAdapterFiles, match="redirects are not followed"):
        intake(tmp_path, f"{files.url}allowed/").take("legal", f"{files.url}allowed/legal")
    assert other.requests == []
