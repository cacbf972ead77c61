"""Options that the tools share, for typer."""

from __future__ import annotations

from typing import Annotated

import typer

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The server; else DEAR_BASE_URL, else http://127.0.0.1:8000.", metavar="URL"),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="Better in DEAR_API_KEY, out of the list of processes.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
