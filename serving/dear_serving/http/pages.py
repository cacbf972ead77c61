"""The pages for people, ``/`` and ``/fleet``: the files of page/, served from memory.

An asset's path holds a digest over all of them, so that browsers keep it for ever and a release that changes
one changes every path. Nothing on a page comes from elsewhere, and no script stands in it.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dear_serving import __version__
from dear_serving.http.access import ASSETS_PATH, ASSETS_ROUTE, FLEET_PATH
from dear_serving.settings import Settings
from dear_serving.types import StrategyName

_FOLDER = Path(__file__).parent / "page"
_PAGES = {"/": "play.html", FLEET_PATH: "fleet.html"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is and compressed; ``digest`` names its content."""

    content: bytes
    packed: bytes
    media_type: str
    digest: str

    @classmethod
    def of(cls, name: str, content: bytes) -> _File:
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cls(content, gzip.compress(content, mtime=0), _TYPES[Path(name).suffix], digest)

    def reply(self, request: Request, cached: str) -> Response:
        headers = _HEADERS | {"Cache-Control": cached, "ETag": f'W/"{self.digest}"'}
        if self.digest in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self.content, media_type=self.media_type, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return Response(self.packed, media_type=self.media_type, headers=headers)


def page_routes(settings: Settings) -> list[Route]:
    """The routes of the pages and their assets; none where ``http.page`` is off."""
    if not settings.http.page:
        return []
    assets, digest = _assets()

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            raise HTTPException(404)
        # Another release's page asks, while gateways are replaced: it gets ours, and does not keep it.
        is_ours = request.path_params["digest"] == digest
        return assets[name].reply(request, _FOR_EVER if is_ours else "no-store")

    pages = [
        Route(path, _answer(_File.of(name, _render(name, digest, settings)))) for path, name in _PAGES.items()
    ]
    return [*pages, Route(ASSETS_ROUTE, asset)]


def _answer(page: _File) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return page.reply(request, "no-cache")

    return answer


@cache
def _assets() -> tuple[dict[str, _File], str]:
    """Every asset by its name, and the digest over all of them."""
    found = {
        file.name: _File.of(file.name, file.read_bytes())
        for file in sorted(_FOLDER.iterdir())
        if file.suffix in _TYPES and file.suffix != ".html"
    }
    names = "".join(name + one.digest for name, one in found.items())
    return found, hashlib.sha256(names.encode()).hexdigest()[:16]


def _render(name: str, digest: str, settings: Settings) -> bytes:
    """A page with the paths of its assets, and with what it has to know of this server."""
    facts = {
        "version": __version__,
        "max_body_bytes": settings.limits.max_body_bytes,
        "max_documents": settings.limits.max_documents,
        "strategies": get_args(StrategyName),
        "has_admin_port": settings.http.admin_port is not None,
    }
    text = (_FOLDER / name).read_text(encoding="utf-8").replace("{assets}", f"{ASSETS_PATH}/{digest}")
    return text.replace("{facts}", html.escape(json.dumps(facts))).encode()
