"""``dear load``."""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from dear_client import Client, Retry, Timeout
from dear_client.exchange import Terms
from dear_tools.exits import FAILED, MISSED, ToolError
from dear_tools.load import report
from dear_tools.load.capacity import Search, Step, find_capacity
from dear_tools.load.generator import Generator, Schedule, seeds
from dear_tools.load.lengths import Lengths, parse_lengths
from dear_tools.load.lists import FileLists, InventedLists, Lists, OneList, read_lists
from dear_tools.load.live import LiveView
from dear_tools.load.mix import Mix, Tenant, parse_tenant, parse_weighted, zipf
from dear_tools.load.objective import parse_objective
from dear_tools.load.records import Record
from dear_tools.load.stages import Arrivals, Stage, parse_duration, parse_stages
from dear_tools.load.trial import Outcome, Plan, raise_file_limit, run
from dear_tools.options import JsonOption, KeyOption, UrlOption

T = TypeVar("T")

_CALLERS = "4"
_OBJECTIVE = "p95<2s"
_PASSAGES, _WORDS = "20", "40"
_OPEN_ATTEMPTS, _CLOSED_ATTEMPTS = 1, 4
_ALL = "all"


def load(
    rate: Annotated[
        str | None,
        typer.Option(
            help="Open loop: requests a second, whatever the answers do. 20, a ramp 5:50, or 10s@5,1m@5:50.",
            rich_help_panel="Load",
        ),
    ] = None,
    callers: Annotated[
        str | None,
        typer.Option(
            help=f"Closed loop: callers who wait for answers; forms as of --rate. [default: {_CALLERS}]",
            rich_help_panel="Load",
        ),
    ] = None,
    find_capacity: Annotated[
        bool,
        typer.Option(
            "--find-capacity",
            help="Raise the rate (from --rate, else 1) until the objective breaks; report the last held.",
            rich_help_panel="Load",
        ),
    ] = False,
    duration: Annotated[
        str, typer.Option(help="How long; with --find-capacity, each rate.", rich_help_panel="Load")
    ] = "20s",
    warmup: Annotated[
        str, typer.Option(help="Sent before, and not counted; 0 for none.", rich_help_panel="Load")
    ] = "2s",
    requests: Annotated[
        int | None, typer.Option(min=1, help="End after so many.", rich_help_panel="Load")
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Of the open loop: poisson or constant.", rich_help_panel="Load")
    ] = "poisson",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=WEIGHT, repeated for a mix; all takes every model the server lists. "
            "Default: the server's.",
            rich_help_panel="Who and what",
        ),
    ] = None,
    zipf_s: Annotated[
        float,
        typer.Option(
            "--zipf",
            min=0,
            help="Popularity of the models in the order given: 1/rank to this power.",
            rich_help_panel="Who and what",
        ),
    ] = 0.0,
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:VARIABLE=WEIGHT, repeated; the environment variable holds the tenant's key.",
            rich_help_panel="Who and what",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Lists to rank: RankGPT's JSON, or JSONL of query and documents. Default: invented ones.",
            rich_help_panel="Who and what",
        ),
    ] = None,
    passages: Annotated[
        str | None,
        typer.Option(
            help="Passages a request: 20, 5-100 or 20~0.5 (lognormal). [default: 20, or the file's]",
            rich_help_panel="Who and what",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Words a passage, in the same forms. [default: 40, or the file's]",
            rich_help_panel="Who and what",
        ),
    ] = None,
    identical: Annotated[
        bool,
        typer.Option(
            "--identical",
            help="The same request every time. Otherwise no two are alike.",
            rich_help_panel="Who and what",
        ),
    ] = False,
    top_n: Annotated[int | None, typer.Option(min=1, rich_help_panel="Who and what")] = None,
    strategy: Annotated[str | None, typer.Option(rich_help_panel="Who and what")] = None,
    scoring: Annotated[str | None, typer.Option(rich_help_panel="Who and what")] = None,
    window_size: Annotated[int | None, typer.Option(min=2, rich_help_panel="Who and what")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="That the server is given for each.", rich_help_panel="Who and what")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help=f"What answers are to keep. [default: {_OBJECTIVE}]", rich_help_panel="Judgement"),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How often a refused request is sent, after Retry-After. "
            f"[default: {_OPEN_ATTEMPTS}; closed loop {_CLOSED_ATTEMPTS}]",
            rich_help_panel="Judgement",
        ),
    ] = None,
    timeout: Annotated[
        str, typer.Option(help="For an answer; later ones count as none.", rich_help_panel="Judgement")
    ] = "60s",
    seed: Annotated[int, typer.Option(help="Of everything drawn.", rich_help_panel="Judgement")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("load-report"),
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put load on a server, and report what it made of it: JSON, Markdown and a page with plots.

    Exit codes: 1 nothing was answered, 4 an objective given was missed or an order was invalid.
    """
    console = Console(stderr=True)
    wanted = _option("--objective", parse_objective, objective or _OBJECTIVE)
    schedule = _schedule(rate, callers, duration, warmup, requests, arrivals, find_capacity)
    open_loop = schedule.kind == "open"
    schedule_random, lists_random = seeds(seed)
    lists = _lists(file, passages, words, identical, lists_random)
    answer_s = _option("--timeout", parse_duration, timeout)
    timeouts = Timeout(connect_s=min(5.0, answer_s), answer_s=answer_s, total_s=10 * answer_s)
    tried = attempts or (_OPEN_ATTEMPTS if open_loop else _CLOSED_ATTEMPTS)
    options = {
        "top_n": top_n,
        "strategy": strategy,
        "scoring": scoring,
        "window_size": window_size,
        "deadline_s": None if deadline is None else _option("--deadline", parse_duration, deadline),
    }
    options = {name: value for name, value in options.items() if value is not None}
    base_url, mix = _mix(url, api_key, tenant or [], model or [], zipf_s)
    terms = Terms(base_url, timeouts, Retry(attempts=tried))
    plan = Plan(terms, mix, lists, wanted, options, schedule_random)
    settings = {
        "url": base_url,
        "models": _described(mix.models, mix.model_weights),
        "tenants": _described([one.name for one in mix.tenants], mix.tenant_weights),
        **lists.describe(),
        "options": options or "the server's defaults",
        "attempts": tried,
        "timeout_s": answer_s,
        "seed": seed,
    }
    where = report.environment()
    raise_file_limit()
    steps: list[Step] = []
    with LiveView(console) as view:
        if find_capacity:
            search = Search(
                schedule.stages[0].start, schedule.stages[0].duration_s, schedule.arrivals, schedule.warmup_s
            )
            outcome = asyncio.run(_search(plan, search, view, console, steps))
        else:
            view.begin(base_url)
            outcome = asyncio.run(run(plan, schedule, view, watch=_watching(view)))
    data = report.content(_command(), settings, outcome, steps, where)
    report.write(out, data, outcome, wanted, steps)
    if as_json:
        typer.echo(json.dumps(data))
    else:
        _show(Console(), outcome, steps, out)
    _end(outcome, steps, find_capacity, objective is not None)


async def _search(plan: Plan, search: Search, view: LiveView, console: Console, steps: list[Step]) -> Outcome:
    view.begin(f"{search.first_rate:g} requests/s")
    async for step in find_capacity(plan, search, view, watch=_watching(view)):
        steps.append(step)
        latency = step.outcome.summary.latency
        p95 = "no answer" if latency is None else f"p95 {report.ms(latency.p95_ms)}"
        said = "held" if step.held else "broke, ended early" if step.was_cut else "broke"
        console.print(f"{step.rate:.4g} requests/s: {said}, {p95}", highlight=False)
        rate = search.next_rate([(one.rate, one.held) for one in steps])
        view.begin("" if rate is None else f"{rate:.4g} requests/s")
    held = [step for step in steps if step.held]
    return (max(held, key=lambda step: step.rate) if held else steps[-1]).outcome


def _watching(view: LiveView) -> Callable[[Record, Generator], None]:
    return lambda record, generator: view.observe(record)


def _schedule(
    rate: str | None,
    callers: str | None,
    duration: str,
    warmup: str,
    requests: int | None,
    arrivals: str,
    find_capacity: bool,
) -> Schedule:
    if rate is not None and callers is not None:
        raise typer.BadParameter("--rate and --callers are two kinds of load; give one")
    kinds: dict[str, Arrivals] = {"poisson": "poisson", "constant": "constant"}
    if arrivals not in kinds:
        raise typer.BadParameter(f"{arrivals!r} is neither poisson nor constant", param_hint="--arrivals")
    if find_capacity and callers is not None:
        raise typer.BadParameter("--find-capacity raises a rate; give --rate or nothing")
    duration_s = _option("--duration", parse_duration, duration)
    warmup_s = 0.0 if warmup.strip() in ("0", "0s") else _option("--warmup", parse_duration, warmup)
    name, text = ("--callers", callers) if callers is not None else ("--rate", rate)
    if text is None:
        name, text = ("--rate", "1") if find_capacity else ("--callers", _CALLERS)
    stages = _option(name, lambda given: _stages(given, duration_s), text)
    if find_capacity and (len(stages) > 1 or stages[0].start != stages[0].end):
        raise typer.BadParameter("--find-capacity starts from one rate", param_hint="--rate")
    kind = "open" if name == "--rate" else "closed"
    return Schedule("open" if kind == "open" else "closed", stages, kinds[arrivals], requests, warmup_s)


def _stages(text: str, duration_s: float) -> tuple[Stage, ...]:
    """Stages as they are, or a level or ramp for the whole duration."""
    return parse_stages(text if "@" in text else f"{duration_s:.9g}s@{text}")


def _lists(
    file: Path | None, passages: str | None, words: str | None, identical: bool, random: random.Random
) -> Lists:
    counts = _lengths("--passages", passages)
    sizes = _lengths("--words", words)
    lists: Lists
    if file is None:
        lists = InventedLists(counts or parse_lengths(_PASSAGES), sizes or parse_lengths(_WORDS), random)
    else:
        lists = FileLists(read_lists(file), counts, sizes, random, file.name)
    return OneList(lists) if identical else lists


def _lengths(name: str, text: str | None) -> Lengths | None:
    return None if text is None else _option(name, parse_lengths, text)


def _mix(
    url: str | None, api_key: str | None, tenants: Sequence[str], models: Sequence[str], exponent: float
) -> tuple[str, Mix]:
    """Where the load goes and from whom, after a look at the server.

    Raises:
        ClientError: the server does not answer, or refuses a key.
        ToolError: a tenant may not use a model.
    """
    callers = [_option("--tenant", parse_tenant, text) for text in tenants]
    wanted = [_option("--model", parse_weighted, text) for text in models]
    keys = [caller.key for caller, _ in callers] or [api_key]
    seen: list[str] = []
    for number, key in enumerate(keys):
        with Client(url, key, retry=Retry(attempts=1), timeout=Timeout(answer_s=30)) as client:
            base_url = client.base_url
            names = [one.id for one in client.models()]
            seen = [name for name in seen if name in names] if number else names
        for name, _ in wanted:
            if name not in names and name != _ALL:
                whose = f"tenant {callers[number][0].name!r} may not use" if callers else f"{base_url} has no"
                raise ToolError(f"{whose} model {name!r}; there is: {', '.join(names)}")
    if any(name == _ALL for name, _ in wanted):
        wanted = [(name, 1.0) for name in seen]
    wanted = wanted or [("", 1.0)]
    callers = callers or [(Tenant("default", api_key), 1.0)]
    mix = Mix(
        tuple(caller for caller, _ in callers),
        tuple(weight for _, weight in callers),
        tuple(name for name, _ in wanted),
        zipf([weight for _, weight in wanted], exponent),
    )
    return base_url, mix


def _described(names: Sequence[str], weights: Sequence[float]) -> str:
    if len(names) == 1:
        return names[0] or "the server's default"
    return ", ".join(
        f"{name} {weight / sum(weights):.1%}" for name, weight in zip(names, weights, strict=True)
    )


def _option(name: str, parse: Callable[[str], T], text: str) -> T:
    """An option's value, or a usage error that names the option."""
    try:
        return parse(text)
    except ToolError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None


def _command() -> str:
    """What was typed, keys left out."""
    typed = sys.argv[1:]
    for index, word in enumerate(typed):
        if word == "--api-key" and index + 1 < len(typed):
            typed[index + 1] = "..."
        elif word.startswith("--api-key="):
            typed[index] = "--api-key=..."
    return shlex.join(["dear", *typed])


def _show(console: Console, outcome: Outcome, steps: Sequence[Step], out: Path) -> None:
    summary = outcome.summary
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("p50", "p90", "p95", "p99", "longest"):
        table.add_column(name, justify="right")
    for row in report.latencies(summary):
        table.add_row(*row)
    if steps:
        rate = report.capacity_of(steps)
        held = "no rate tried" if rate is None else f"{rate:.4g} requests a second"
        console.print(f"[bold]{held}[/bold] held {summary.objective}; of that run:", highlight=False)
    for name, value in report.overview(summary):
        console.print(f"{name}: {value}", highlight=False, markup=False)
    console.print(table)
    for message, count in summary.messages.items():
        console.print(f"{count} times: {message}", highlight=False, markup=False)
    for warning in report.warnings(summary):
        console.print(warning, style="yellow", highlight=False, markup=False)
    console.print(f"report: {out / 'report.html'} (also report.md, report.json)", highlight=False)


def _end(outcome: Outcome, steps: Sequence[Step], searched: bool, was_asked: bool) -> None:
    """The exit code."""
    summary = outcome.summary
    if not summary.results.get("ok"):
        raise typer.Exit(FAILED)
    missed = report.capacity_of(steps) is None if searched else was_asked and not summary.objective_met
    if missed or summary.results.get("invalid"):
        raise typer.Exit(MISSED)
