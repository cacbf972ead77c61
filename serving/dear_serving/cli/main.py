"""The ``dear`` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dear_client import ClientError
from dear_serving import __version__
from dear_serving.cli.doctor import DEFAULT_CONFIG, check_port, doctor
from dear_serving.cli.plan import plan
from dear_serving.errors import InvalidRequest, SettingsError, StartupError
from dear_serving.settings import Settings, check_open_access, load_settings
from dear_tools.admin.adapters import adapters
from dear_tools.admin.apply import apply
from dear_tools.admin.audit import audit
from dear_tools.admin.keys import keys
from dear_tools.admin.replicas import replicas
from dear_tools.admin.tenants import tenants
from dear_tools.evaluation.command import evaluate
from dear_tools.exits import FAILED, ToolError
from dear_tools.load.command import load
from dear_tools.rerank.command import rerank

_USERS = "For users of a server"
_OPERATORS = "For those who run one"
_ADMINISTRATORS = "For its administrators"

_Base = Annotated[
    str | None,
    typer.Option(help="Folder or Hugging Face id of the base. [default: what the adapter names]"),
]
_OtherBases = Annotated[
    list[str] | None,
    typer.Option(help="Another model whose adapters fit the base, by its id; repeatable."),
]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

app.command(rich_help_panel=_USERS)(rerank)
app.command(rich_help_panel=_USERS)(load)
app.command("eval", rich_help_panel=_USERS)(evaluate)
app.command(rich_help_panel=_OPERATORS)(doctor)
app.command(rich_help_panel=_OPERATORS)(plan)
app.add_typer(adapters, name="adapters", rich_help_panel=_ADMINISTRATORS)
app.add_typer(tenants, name="tenants", rich_help_panel=_ADMINISTRATORS)
app.add_typer(keys, name="keys", rich_help_panel=_ADMINISTRATORS)
app.command(rich_help_panel=_ADMINISTRATORS)(replicas)
app.command(rich_help_panel=_ADMINISTRATORS)(audit)
app.command(rich_help_panel=_ADMINISTRATORS)(apply)

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


@app.command(rich_help_panel=_OPERATORS)
def serve(config: ConfigOption = DEFAULT_CONFIG, host: HostOption = None, port: PortOption = None) -> None:
    """Start the server in the foreground; Ctrl-C stops it and everything it started."""
    from dear_serving.process.supervisor import supervise

    settings = check(config, host, port)
    raise typer.Exit(supervise(server_command(config, settings), settings.gateway.drain_s))


@app.command(rich_help_panel=_OPERATORS)
def demo(config: ConfigOption = DEFAULT_CONFIG, host: HostOption = None, port: PortOption = None) -> None:
    """Start the server, rank three example lists over HTTP, show the result, and stop."""
    from dear_serving.cli.demo import show_examples

    settings = check(config, host, port)
    raise typer.Exit(show_examples(settings, server_command(config, settings)))


@app.command(rich_help_panel=_OPERATORS)
def migrate(
    config: ConfigOption = DEFAULT_CONFIG,
    check_only: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 while this release cannot use them.")
    ] = False,
) -> None:
    """Bring the registry's tables to this release; run it before servers of a new release start."""
    from dear_serving.registry.database import migrate_database, open_database

    url = load_settings(config).registry.url
    if check_only:
        open_database(url, migrate="never").close()
        typer.echo("registry: this release can use the tables")
        return
    before, now = migrate_database(url)
    done = "nothing to do" if before == now else f"migrated from {before.revision or 'nothing'}"
    typer.echo(f"registry: tables are at {now.revision}, {done}")


@app.command("training-data", rich_help_panel=_OPERATORS)
def training_data(
    file: Annotated[
        typer.FileText, typer.Argument(help='Lines {"query": ..., "passages": [best first]}; - reads stdin.')
    ],
    template: Annotated[str, typer.Option(help="Prompt template that the adapter will serve with.")] = "chat",
    templates: Annotated[Path | None, typer.Option(help="Folder with templates of your own.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order in which passages are shown.")] = 0,
) -> None:
    """Turn ranked lists into LLaMA-Factory training examples, in the words the server will use."""
    from dear_serving.adapters.template_files import load_template
    from dear_serving.cli.training_data import examples

    try:
        for example in examples(file, load_template(template, templates), seed):
            typer.echo(json.dumps(example, ensure_ascii=False))
    except InvalidRequest as error:
        raise SettingsError(f"{file.name}: {error.message}") from None


@app.command(rich_help_panel=_OPERATORS)
def merge(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter, as PEFT saves it.")],
    output: Annotated[Path, typer.Argument(help="Folder to make; it may not exist.")],
    base: _Base = None,
    other_base: _OtherBases = None,
) -> None:
    """Merge an adapter into its base model, to serve the full model without LoRA (configs/merged.yaml)."""
    from dear_serving.adapters.merge import merge as merge_adapter

    merge_adapter(adapter, output, base, other_base or ())
    typer.echo(f"{output}: {adapter.resolve().name} merged into its base; serve it with adapters.capacity: 0")


@app.command("convert-head", rich_help_panel=_OPERATORS)
def convert_head(
    adapter: Annotated[Path, typer.Argument(help="Folder of a LoRA adapter with a scalar head (SEQ_CLS).")],
    output: Annotated[Path, typer.Argument(help="Folder to make; it may not exist.")],
    template: Annotated[
        str, typer.Option(help="Prompt template that it will serve with; it has labels.")
    ] = "dear-pointwise",
    templates: Annotated[Path | None, typer.Option(help="Folder with templates of your own.")] = None,
    base: _Base = None,
    other_base: _OtherBases = None,
) -> None:
    """Turn a scalar head into a label's logit, so that the adapter can be a first stage (first_stage)."""
    from dear_serving.adapters import scalar_head

    scalar_head.convert_head(
        adapter, output, template, base, templates=templates, other_bases=other_base or ()
    )
    typer.echo(f"{output}: serve it with the template {template}, and name it in first_stage")


def main() -> NoReturn:
    """Entry point of the ``dear`` script."""
    try:
        app()
    except (StartupError, ToolError, ClientError) as error:
        typer.echo(f"dear: {error}", err=True)
        sys.exit(FAILED)
    sys.exit(0)


def check(config: Path, host: str | None, port: int | None) -> Settings:
    """Load settings, apply the command line's host and port, and check all that needs no engine.

    Raises:
        StartupError: one sentence about the settings, a model folder, an adapter or the port.
    """
    from dear_serving.adapters.preflight import check_models

    settings = load_settings(config)
    given = {"host": host, "port": port}
    http = settings.http.model_copy(update={k: v for k, v in given.items() if v is not None})
    if (port_found := check_port(http.host, http.port)).state != "ok":
        raise SettingsError(f"cannot listen on {port_found.found}; choose another with --host and --port")
    if http.admin_port == http.port:
        raise SettingsError(f"--port: {http.port} is http.admin_port already; choose another")
    if http.admin_port and (found := check_port(http.host, http.admin_port)).state != "ok":
        raise SettingsError(f"cannot listen on {found.found}; choose another in http.admin_port")
    settings = settings.model_copy(update={"http": http})
    check_open_access(settings)
    check_models(settings)
    return settings


def server_command(config: Path, settings: Settings) -> list[str]:
    """The command line of the server process, which ``dear serve`` supervises."""
    where = [str(config.resolve()), settings.http.host, str(settings.http.port)]
    return [sys.executable, "-c", "from dear_serving.process.runtime import main; main()", *where]
