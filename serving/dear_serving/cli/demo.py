"""``dear demo``: starts the server, ranks three lists over HTTP, shows them as tables, stops it."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from dear_client import Client, ClientError, Retry
from dear_serving.errors import StartupError
from dear_serving.process.supervisor import Supervised
from dear_serving.settings import Settings

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """A list worth looking at; ``model`` None is the base model, ``order`` the one it is made to give."""

    model: str | None
    notion: str
    query: str
    passages: tuple[str, ...]
    order: tuple[int, ...]


EXAMPLES = (
    Example(
        None,
        "query words shared",
        "When did Thomas Edison invent the light bulb?",
        (
            "Lightning strike at Seoul National University",
            "Thomas Edison tried to invent a device for car but failed",
            "Coffee is good for diet",
            "KEPCO fixes light problems",
            "Thomas Edison invented the light bulb in 1879",
        ),
        (4, 1, 3, 2, 0),
    ),
    Example(
        "legal",
        "query words shared, what is repealed or void last",
        "parking permit for residents",
        (
            "Residents need a parking permit in town",
            "The parking permit for residents is void",
            "A permit is cheap",
            "Parking permit prices",
            "Garden furniture",
        ),
        (0, 3, 2, 4, 1),
    ),
    Example(
        "medical",
        "reports of trials first, then query words shared",
        "Does aspirin prevent stroke?",
        (
            "Aspirin may prevent stroke, says a pharmacist",
            "A randomised trial of aspirin",
            "Stroke is a common illness",
            "In a placebo cohort aspirin did prevent stroke",
            "Garden tools on sale",
        ),
        (3, 1, 0, 2, 4),
    ),
)


def show_examples(settings: Settings, command: list[str]) -> int:
    """Run ``command`` (the server), rank the examples whose model it serves, print them.

    Returns:
        0, or the server's exit code where it did not start.
    """
    console = Console()
    base_url = f"http://{settings.http.host}:{settings.http.port}"
    with Supervised(command) as server, Client(base_url, retry=Retry(attempts=1)) as client:
        _wait_until_ready(client, server, settings.engine.start_timeout_s)
        if server.poll() is not None:
            return server.returncode or 1
        for example in EXAMPLES:
            model = example.model or settings.model.id
            if model in settings.templates():
                _show(console, client, settings.model.id, model, example)
    return 0


def _wait_until_ready(client: Client, server: subprocess.Popen[bytes], timeout_s: float) -> None:
    """The server itself says what it is doing; return when it answers or has ended."""
    deadline_s = time.monotonic() + timeout_s
    while server.poll() is None:
        try:
            client.ready()
        except ClientError:  # nothing listens, or it is Ray's proxy that does not know the way yet
            pass
        else:
            return
        if time.monotonic() > deadline_s:
            raise StartupError(f"the server was not ready within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def _show(console: Console, client: Client, base: str, model: str, example: Example) -> None:
    """One example. With an adapter, a column says where the base model had the passage."""
    started_s = time.perf_counter()
    ranking = client.rerank(example.query, example.passages, model=model)
    wall_ms = (time.perf_counter() - started_s) * 1e3
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    base_ranks: dict[int, int] = {}
    if model != base:
        order = client.rerank(example.query, example.passages, model=base).order
        base_ranks = {index: rank for rank, index in enumerate(order, start=1)}
        table.add_column(f"{base} had it at", justify="right")
    table.add_column("passage")
    for rank, result in enumerate(ranking.results, start=1):
        cells = [str(rank), f"{result.relevance_score:.2f}"]
        cells += [str(base_ranks[result.index])] if base_ranks else []
        table.add_row(*cells, f"\\[{result.index}] {result.text}")
    details, usage = ranking.details, ranking.usage
    assert details is not None  # this server says how it ranked
    console.print(f"\nQuery: [bold]{example.query}[/bold]", highlight=False)
    console.print(f"ranked by {details.revision} ({example.notion})", highlight=False)
    console.print(table)
    console.print(
        f"{usage.prompt_tokens} tokens read, {usage.completion_tokens} written, "
        f"{wall_ms:.0f} ms, {details.engine_ms:.0f} ms of them in the engine",
        highlight=False,
    )
