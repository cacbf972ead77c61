"""The ``dear`` command."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dear_serving import __version__
from dear_serving.adapters.preflight import check_models
from dear_serving.administration import adapters, apply, audit, keys, tenants
from dear_serving.errors import InvalidRequest, SettingsError, StartupError
from dear_serving.settings import Settings, check_door, load_settings
from dear_serving.supervisor import supervise

DEFAULT_CONFIG = Path("configs/cpu.yaml")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

app.add_typer(adapters, name="adapters")
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")
app.command()(audit)
app.command()(apply)

ConfigOption = Annotated[Path, typer.Option("--config", help="Settings file (YAML).")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on; overrides http.host.")]
PortOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port to listen on; overrides http.port.")
]


@app.callback(invoke_without_command=True)
def dear(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Listwise reranking as a service: vLLM with LoRA adapters behind Ray Serve."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def serve(config: ConfigOption = DEFAULT_CONFIG, host: HostOption = None, port: PortOption = None) -> None:
    """Start the server in the foreground; Ctrl-C stops it and everything it started."""
    settings = check(config, host, port)
    raise typer.Exit(supervise(server_command(config, settings)))


@app.command()
def demo(config: ConfigOption = DEFAULT_CONFIG, host: HostOption = None, port: PortOption = None) -> None:
    """Start the server, rank three example lists over HTTP, show the result, and stop."""
    from dear_serving.demo import show_examples

    settings = check(config, host, port)
    raise typer.Exit(show_examples(settings, server_command(config, settings)))


@app.command("training-data")
def training_data(
    file: Annotated[
        typer.FileText, typer.Argument(help='Lines {"query": ..., "passages": [best first]}; - reads stdin.')
    ],
    template: Annotated[str, typer.Option(help="Prompt template that the adapter will serve with.")] = "chat",
    templates: Annotated[Path | None, typer.Option(help="Folder with templates of your own.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which passages are shown.")] = 0,
) -> None:
    """Turn ranked lists into LLaMA-Factory training examples, in the words the server will use."""
    from dear_serving.adapters.templates import load_template
    from dear_serving.adapters.training import examples

    try:
        for example in examples(file, load_template(template, templates), seed):
            typer.echo(json.dumps(example, ensure_ascii=False))
    except InvalidRequest as error:
        raise SettingsError(f"{file.name}: {error.message}") from None


def main() -> NoReturn:
    """Entry point of the ``dear`` script."""
    try:
        app()
    except StartupError as error:
        typer.echo(f"dear: {error}", err=True)
        sys.exit(1)
    sys.exit(0)


def check(config: Path, host: str | None, port: int | None) -> Settings:
    """Settings with the command line's host and port, everything checked that needs no engine.

    Raises:
        StartupError: one sentence about the settings, a model folder, an adapter or the port.
    """
    settings = load_settings(config)
    given = {"host": host, "port": port}
    http = settings.http.model_copy(update={k: v for k, v in given.items() if v is not None})
    _check_port(http.host, http.port)
    settings = settings.model_copy(update={"http": http})
    check_door(settings)
    check_models(settings)
    return settings


def server_command(config: Path, settings: Settings) -> list[str]:
    """The command line of the server process itself, which cli.serve supervises."""
    http = settings.http
    where = [str(config.resolve()), http.host, str(http.port)]
    return [sys.executable, "-c", "from dear_serving.cli import run_server; run_server()", *where]


def run_server() -> NoReturn:
    """What ``server_command`` runs: settings file, host and port come as arguments."""
    from dear_serving.runtime import run

    _, config, host, port = sys.argv
    settings = load_settings(Path(config))
    http = settings.http.model_copy(update={"host": host, "port": int(port)})
    code = run(settings.model_copy(update={"http": http}))
    sys.stderr.flush()
    os._exit(code)  # Ray's threads may outlive a half-finished start


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}; "
                "choose another with --host and --port"
            ) from None
