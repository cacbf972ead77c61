"""The server that the environment names, as its administrator."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from dear_client import Client
from dear_client.client import Admin
from dear_client.wire import ADMIN_KEY_VARIABLE
from dear_tools.exits import ToolError

T = TypeVar("T")


def server() -> Client:
    """A client of the server.

    Raises:
        ToolError: there is no admin key.
    """
    if not os.environ.get(ADMIN_KEY_VARIABLE, "").partition(",")[0].strip():
        raise ToolError(f"set {ADMIN_KEY_VARIABLE} to the key that the server was started with")
    return Client()


def ask(call: Callable[[Admin], T]) -> T:
    """The reply to one call.

    Raises:
        ToolError: there is no admin key.
        ClientError: the server refuses the call, or does not answer.
    """
    with server() as client:
        return call(client.admin)
