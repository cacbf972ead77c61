"""What stands in the way of using a server: the part of ``dear doctor`` that asks the server itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table

from dear_client import Client, ClientError, InvalidKey, Retry, Timeout
from dear_client.wire import URL_VARIABLE

State = Literal["ok", "note", "wrong"]

_MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "wrong": "[red]wrong[/red]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; ``advice`` says what to do, where there is something to do.

    ``wrong`` stops a server from starting or answering, a ``note`` does not.
    """

    check: str
    state: State
    found: str
    advice: str | None = None


def show_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Findings as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        text = finding.found.replace("[", "\\[")
        if finding.advice is not None:
            text += f"\n→ {finding.advice}".replace("[", "\\[")
        table.add_row(_MARKS[finding.state], finding.check, text)
    Console().print(table)


def check_server(url: str | None, api_key: str | None) -> Iterator[Finding]:
    """A running server, over HTTP: does it answer, is it ready, does it take the key."""
    timeout = Timeout(connect_s=2, answer_s=10, total_s=20)
    try:
        client = Client(url, api_key, retry=Retry(attempts=1), timeout=timeout)
    except ClientError as error:
        yield Finding("server", "wrong", error.message)
        return
    with client:
        try:
            client.health()
        except ClientError as error:
            # Where no server was named, it is no fault that none runs.
            is_named = url is not None or bool(os.environ.get(URL_VARIABLE))
            advice = "start one with dear serve, or name it with --url or DEAR_BASE_URL"
            yield Finding("server", "wrong" if is_named else "note", error.message, advice)
            return
        try:
            client.ready()
        except ClientError as error:
            yield Finding("server", "wrong", error.message, "wait, or see Ray's logs on its machine")
            return
        yield Finding("server", "ok", f"{client.base_url} answers")
        yield _check_models(client)


def _check_models(client: Client) -> Finding:
    try:
        names = [model.id for model in client.models()]
    except InvalidKey as error:
        return Finding("key", "wrong", error.message, "set DEAR_API_KEY; dear keys create makes one")
    except ClientError as error:
        return Finding("models served", "wrong", error.message)
    return Finding("models served", "ok", ", ".join(names))
