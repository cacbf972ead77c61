"""The options of a reranking on the command line: declared once, in the client."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import click
import pytest
import typer
from typer.testing import CliRunner

from dear_client.calls import Calls
from dear_client.options import Option, RerankOptions
from dear_serving.cli.main import app
from dear_tools.options import with_rerank_options

HINTS = get_type_hints(RerankOptions, include_extras=True)
OFFERED = [name for name, hint in HINTS.items() if get_args(hint)[1].on_command_line]
VALUES = {
    "strategy": "sliding",
    "scoring": "generate",
    "model": "legal",
    "deadline_s": "1.5",
    "long_documents": "max_passage",
}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def echo() -> typer.Typer:
    """A command that prints the body that would be sent."""
    small = typer.Typer()

    @small.command()
    @with_rerank_options()
    def command(query: str, *, options: RerankOptions) -> None:
        typer.echo(json.dumps(Calls().rerank(query, ["a"], **options).body))

    return small


def sent(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(echo(), ["q", *arguments])
    assert result.exit_code == 0, result.output
    body: dict[str, Any] = json.loads(result.stdout)
    return body


@pytest.mark.parametrize("command", ["rerank", "eval", "load"])
def test_every_option_is_offered_by_every_command_with_its_help(command: str) -> None:
    shown = click.unstyle(CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300"}).stdout)
    for name in OFFERED:
        if command == "load" and name in ("model", "deadline_s"):
            continue  # a mix of models; a duration with its unit
        assert flag(name) in shown
        assert get_args(HINTS[name])[1].help in shown


@pytest.mark.parametrize("name", OFFERED)
def test_an_option_that_is_given_is_sent_and_else_left_out(name: str) -> None:
    given = [flag(name)] if name in ("reasoning", "confidence") else [flag(name), VALUES.get(name, "3")]
    body, plain = sent(*given), sent()
    assert plain.keys() == {"query", "documents"}
    own = {**body, **body.get("dear", {})}
    assert len(own.keys() - plain.keys() - {"dear"}) == 1


def test_no_other_option_can_hold_for_many_requests() -> None:
    assert set(HINTS) - set(OFFERED) == {"explain", "rank_fields", "request_id", "traceparent"}


@pytest.mark.parametrize(("name", "hint"), HINTS.items())
def test_an_entry_says_what_it_is_for(name: str, hint: Any) -> None:
    kind, option = get_args(hint)
    assert type(None) in get_args(kind)
    assert isinstance(option, Option)
    assert option.help.endswith(".")


def test_values_below_the_least_are_usage_errors() -> None:
    for name in OFFERED:
        least = get_args(HINTS[name])[1].at_least
        if least is not None:
            result = CliRunner().invoke(echo(), ["q", flag(name), str(int(least) - 1)])
            assert result.exit_code == 2, name
