"""Options that the tools share, for typer."""

from __future__ import annotations

from typing import Annotated

import typer

from dear_client.calls import Scoring, Strategy

_RANKING = "How to rank"

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The server; else DEAR_BASE_URL, else http://127.0.0.1:8000.", metavar="URL"),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="Better in DEAR_API_KEY, out of the list of processes.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

StrategyOption = Annotated[
    Strategy | None, typer.Option(help="How lists over one window are ranked.", rich_help_panel=_RANKING)
]
WindowSizeOption = Annotated[
    int | None, typer.Option("--window-size", min=2, help="Passages in a window.", rich_help_panel=_RANKING)
]
StepOption = Annotated[
    int | None, typer.Option(min=1, help="Step of the sliding window.", rich_help_panel=_RANKING)
]
ScoringOption = Annotated[
    Scoring | None, typer.Option(help="How a window is decoded.", rich_help_panel=_RANKING)
]
PassesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Shuffled orders whose ranks are averaged.", rich_help_panel=_RANKING),
]
ReasoningOption = Annotated[
    bool | None, typer.Option(help="Whether the model reasons before it ranks.", rich_help_panel=_RANKING)
]
