"""``dear plan``: how many GPUs a rate takes, calculated before any are bought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from dear_serving.errors import SettingsError
from dear_tools.options import JsonOption

if TYPE_CHECKING:
    from dear_serving.ranking.prompts import Tokenizer
    from dear_serving.sizing.figures import EngineFigures
    from dear_serving.sizing.model import Model, Quantisation

_REQUEST, _SERVER = "The request", "The server"


def plan(
    gpu: Annotated[str, typer.Option(help="a100-40, a100-80, h100, h200, l40s or a10g.")] = "a100-80",
    rate: Annotated[
        float | None, typer.Option(help="Requests/s of all GPUs together. Default: what one does.")
    ] = None,
    objective: Annotated[str, typer.Option(help="Latency objective.")] = "p95<2s",
    passages: Annotated[int, typer.Option(help="Passages of a request.", rich_help_panel=_REQUEST)] = 20,
    words: Annotated[int, typer.Option(help="Words of a passage.", rich_help_panel=_REQUEST)] = 60,
    top_n: Annotated[
        int | None, typer.Option(help="Rank only so many, the best.", rich_help_panel=_REQUEST)
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="How lists longer than one window are ranked.", rich_help_panel=_REQUEST)
    ] = "auto",
    window_size: Annotated[
        int | None, typer.Option(min=2, help="Passages in a window. Default: 20.", rich_help_panel=_REQUEST)
    ] = None,
    template: Annotated[
        str, typer.Option(help="Prompt template: plain or chat.", rich_help_panel=_REQUEST)
    ] = "plain",
    model: Annotated[
        str,
        typer.Option(
            help="Folder with config.json, and tokenizer.json if prompts are to be counted exactly.",
            rich_help_panel=_SERVER,
        ),
    ] = "llama-3.1-8b",
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Weights: bf16, int8, fp8 or awq. Default: as the config says, else bf16.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.", rich_help_panel=_SERVER)] = 16,
    slots: Annotated[
        int, typer.Option(min=0, help="Adapters in one batch; 0: no adapters.", rich_help_panel=_SERVER)
    ] = 8,
    max_model_len: Annotated[
        int | None,
        typer.Option(
            min=128,
            help="Tokens of prompt and answer. Default: 8192, or the model's if that is less.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    passes_a_passage: Annotated[
        float | None,
        typer.Option(
            help="Forward passes a ranked passage: 1 without drafts. Default: 0.57, seven drafts.",
            rich_help_panel="What is assumed",
        ),
    ] = None,
    tokens_a_word: Annotated[
        float | None,
        typer.Option(
            help="In place of the model's tokenizer. Default without one: 1.3.",
            rich_help_panel="What is assumed",
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="A report of dear load on such a GPU with this model: its factors replace the stated ones.",
            rich_help_panel="What is assumed",
        ),
    ] = None,
    measured_gpus: Annotated[
        int, typer.Option(min=1, help="How many GPUs that server had.", rich_help_panel="What is assumed")
    ] = 1,
    as_table: Annotated[bool, typer.Option("--table", help="Every known GPU, as a Markdown table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Calculate memory, latency and GPUs for a rate, from the model's config and the makers' data sheets.

    Nothing is started or loaded. What is assumed is printed.
    """
    from dear_serving.adapters.template_files import load_template
    from dear_serving.ranking.strategies import FIRST_STAGE
    from dear_serving.sizing import show
    from dear_serving.sizing.figures import load_figures
    from dear_serving.sizing.measured import read_report
    from dear_serving.sizing.model import load_model
    from dear_serving.sizing.plan import Planner, Wish
    from dear_serving.sizing.workload import Workload, english_task, workload
    from dear_serving.types import StrategyName
    from dear_tools.load.objective import parse_objective

    if as_table and (measured is not None or as_json):
        raise SettingsError("--table: it is computed for every GPU; leave --measured and --json out")
    figures = load_figures()
    card = figures.gpu(gpu)
    llm = load_model(model)
    kept = _quantisation(quantization, llm)
    known = [name for name in get_args(StrategyName) if name not in FIRST_STAGE]
    if strategy not in known:
        raise SettingsError(f"--strategy: {strategy!r} is not known; known are {', '.join(known)}")
    if rank < 1:
        raise SettingsError(
            f"--rank: {rank} is no rank, at least 1 is needed; without adapters give --slots 0"
        )
    wish = Wish(parse_objective(objective), rate)
    length = _length(max_model_len, llm, figures.engine)
    assumed = _assumed(figures.engine, passes_a_passage, tokens_a_word)
    tokenizer, tokens_from = _tokenizer(model, tokens_a_word, assumed.tokens_a_word)
    prompt_template = load_template(template, None)

    def work_of(count: int, options: dict[str, Any]) -> Workload:
        task = english_task(count, words, assumed.query_words, **options)
        return workload(task, prompt_template, tokenizer, length)

    given = {"top_n": top_n, "strategy": cast("StrategyName", strategy), "window_size": window_size}
    planner = Planner(
        figures=figures.model_copy(update={"engine": assumed}),
        model=llm,
        rank=rank,
        slots=slots,
        max_model_len=length,
        work=work_of(passages, given),
        work_of=work_of,
        measured=None if measured is None else read_report(measured),
        engines=measured_gpus,
    )
    if as_table:
        typer.echo("\n".join(show.table(planner.table(wish), wish)))
        return
    made = planner.plan(card, kept, wish)
    if as_json:
        typer.echo(json.dumps(show.data(made)))
        return
    passes_from = f"{assumed.passes_a_passage:g} a passage" + (
        ", measured with the tiny model and 7 drafts" if passes_a_passage is None else ", as given"
    )
    asked = f"{passages} passages of {words} words, template {template}"
    typer.echo("\n".join(show.text(made, asked, tokens_from, passes_from)))


def _quantisation(name: str | None, model: Model) -> Quantisation:
    """How the weights are kept: as asked for, else as the config says."""
    from dear_serving.sizing.model import QUANTISATIONS

    wanted = name or model.quantised or "bf16"
    if wanted not in QUANTISATIONS:
        known = ", ".join(QUANTISATIONS)
        raise SettingsError(f"--quantization: {wanted!r} is not known; known are {known}")
    return QUANTISATIONS[wanted]


def _length(given: int | None, model: Model, usual: EngineFigures) -> int:
    """The engine's max_model_len."""
    longest = model.max_length or usual.max_model_len
    if given is not None and given > longest:
        raise SettingsError(f"--max-model-len: {given:,} is over the {longest:,} tokens of {model.name}")
    return given or min(usual.max_model_len, longest)


def _assumed(
    usual: EngineFigures, passes_a_passage: float | None, tokens_a_word: float | None
) -> EngineFigures:
    """The usual assumptions, with those that were given in their place."""
    given = {"passes_a_passage": passes_a_passage, "tokens_a_word": tokens_a_word}
    for name, value in given.items():
        # Four tokens stand for a passage in an answer: no decoding takes more passes.
        if value is not None and not 0 < value <= 4:
            raise SettingsError(f"--{name.replace('_', '-')}: {value:g} is not over 0 and at most 4")
    return usual.model_copy(update={name: value for name, value in given.items() if value is not None})


def _tokenizer(source: str, given: float | None, usual: float) -> tuple[Tokenizer, str]:
    """The model's tokenizer, else so many tokens a word; and which of them, in words."""
    from dear_serving.sizing.workload import WordTokenizer

    if given is not None:
        return WordTokenizer(given), f"words x {given:g}, as given"
    if not (Path(source) / "tokenizer.json").is_file():
        return WordTokenizer(usual), f"words x {usual:g}, an estimate: no tokenizer.json beside the config"
    try:
        from dear_serving.gateway.tokenizer import load_tokenizer

        return load_tokenizer(
            source
        ), f"plain English, counted by the tokenizer of {Path(source).resolve().name}"
    except ModuleNotFoundError as error:
        return WordTokenizer(usual), f"words x {usual:g}, an estimate: {error.name} is not installed"
