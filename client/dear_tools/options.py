"""Options that the commands share, for typer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from dear_client.options import Option, RerankOptions

R = TypeVar("R")

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The server; else DEAR_BASE_URL, else http://127.0.0.1:8000.", metavar="URL"),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="Better in DEAR_API_KEY, out of the list of processes.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def with_rerank_options(*, without: Collection[str] = ()) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command an option for each entry of RerankOptions that is meant for command lines.

    They stand in the place of the command's parameter ``options``, which gets those that were given.

    Args:
        without: entries that the command leaves out, or declares in another way.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        added = [parameter for parameter in _parameters() if parameter.name not in without]
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def run(**given: Any) -> R:
            options = {parameter.name: given.pop(parameter.name) for parameter in added}
            return command(
                **given, options={name: value for name, value in options.items() if value is not None}
            )

        parameters: list[inspect.Parameter] = []
        for own in signature.parameters.values():
            parameters += added if own.name == "options" else [own]
        keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        # What typer reads.
        run.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameters() -> Iterator[inspect.Parameter]:
    for name, hint in get_type_hints(RerankOptions, include_extras=True).items():
        kind, option = get_args(hint)
        if option.on_command_line:
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, _typed(option)]
            )


def _typed(option: Option) -> Any:
    return typer.Option(min=option.at_least, help=option.help, rich_help_panel="How to rank")
