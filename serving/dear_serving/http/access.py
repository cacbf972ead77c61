"""Which key a path needs, for the middleware and for the OpenAPI document."""

from __future__ import annotations

import re
from typing import Literal

from starlette.datastructures import Headers

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
"""What a caller's X-Request-Id may be; another one is replaced."""

ADMIN_PATH = "/admin/v1"
VLLM_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")

FLEET_PATH = "/fleet"
ASSETS_PATH = "/page"
ASSETS_ROUTE = f"{ASSETS_PATH}/{{digest}}/{{name}}"

_OPEN_PATHS = ("/", FLEET_PATH, "/health", "/ready", "/openapi.json", "/docs", "/redoc")
_OPEN_FOLDERS = (f"{ASSETS_PATH}/", "/docs/", "/redoc/")
_ON_BOTH_PORTS = ("/health", "/ready", "/metrics")


def is_on_port(path: str, port: int | None, admin_port: int | None) -> bool:
    """Whether a path is served on the port that a request came to; ``admin_port`` is the setting."""
    if admin_port is None or path in _ON_BOTH_PORTS or path.startswith(f"{ASSETS_PATH}/"):
        return True
    # The fleet's page needs no key, but what it shows does.
    return (key_for(path) == "admin" or path == FLEET_PATH) == (port == admin_port)


def key_for(path: str) -> Literal["tenant", "admin"] | None:
    """Whose key a path needs; None: it is open."""
    if path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS):
        return None
    return "admin" if path.startswith(f"{ADMIN_PATH}/") or path in VLLM_PATHS else "tenant"


def authorization_of(headers: Headers) -> str | None:
    """The Authorization header. Pinecone's clients send their key in a header of its own, ``Api-Key``."""
    given, key = headers.get("authorization"), headers.get("api-key")
    return given if given is not None or key is None else f"Bearer {key}"
