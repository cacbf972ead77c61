"""``dear load``."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dear_client import RerankOptions, Retry, Timeout
from dear_client.exchange import Terms
from dear_tools.exits import ToolError
from dear_tools.load.lengths import Lengths, parse_lengths
from dear_tools.load.lists import FileLists, InventedLists, Lists, OneList, read_lists
from dear_tools.load.mix import Tenant, parse_tenant, parse_weighted
from dear_tools.load.objective import parse_objective
from dear_tools.load.probe import ALL, probe
from dear_tools.load.schedule import Arrivals, Schedule, parse_duration, parse_stages, random_sources
from dear_tools.options import JsonOption, KeyOption, UrlOption, with_rerank_options

T = TypeVar("T")

_CALLERS = "4"
_OBJECTIVE = "p95<2s"
_PASSAGES, _WORDS = "20", "40"
_OPEN_ATTEMPTS, _CLOSED_ATTEMPTS = 1, 4
_CONNECT_S = 5.0


@with_rerank_options(without=("model", "deadline_s"))
def load(
    rate: Annotated[
        str | None,
        typer.Option(
            help="Open loop: requests/s. 20, a ramp 5:50, or stages 10s@5,1m@5:50.",
            rich_help_panel="Load",
        ),
    ] = None,
    callers: Annotated[
        str | None,
        typer.Option(
            help="Closed loop: callers who wait for answers; the same forms as --rate.",
            show_default=_CALLERS,
            rich_help_panel="Load",
        ),
    ] = None,
    find_capacity: Annotated[
        bool,
        typer.Option(
            "--find-capacity",
            help="Raise the rate (from --rate, else 1) until the objective is missed; report the last held.",
            rich_help_panel="Load",
        ),
    ] = False,
    duration: Annotated[
        str, typer.Option(help="How long; with --find-capacity, of each rate.", rich_help_panel="Load")
    ] = "20s",
    warmup: Annotated[
        str,
        typer.Option(help="Load before the test that does not count; 0 for none.", rich_help_panel="Load"),
    ] = "2s",
    requests: Annotated[
        int | None, typer.Option(min=1, help="End after so many requests.", rich_help_panel="Load")
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Arrivals of the open loop: poisson or constant.", rich_help_panel="Load")
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
            max=10,
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
            help="Passages per request: 20, 5-100 or 20~0.5 (lognormal).",
            show_default=f"{_PASSAGES}, or the file's",
            rich_help_panel="Who and what",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="Words per passage, in the same forms.",
            show_default=f"{_WORDS}, or the file's",
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
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Deadline of each request: the server replies with what is decided.",
            rich_help_panel="How to rank",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="Latency objective.", show_default=_OBJECTIVE, rich_help_panel="Judgement"),
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attempts for a refused request, after Retry-After.",
            show_default=f"{_OPEN_ATTEMPTS}, in a closed loop {_CLOSED_ATTEMPTS}",
            rich_help_panel="Judgement",
        ),
    ] = None,
    timeout: Annotated[
        str,
        typer.Option(help="Timeout for an answer; a later one counts as none.", rich_help_panel="Judgement"),
    ] = "60s",
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel="Judgement")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("load-report"),
    *,
    options: RerankOptions,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put load on a server and report latency, throughput and goodput: JSON, Markdown and a page with plots.

    Exit codes: 1 nothing was answered, 4 the given objective was missed or an order was invalid.
    """
    wanted = _option("--objective", parse_objective, objective or _OBJECTIVE)
    schedule = _schedule(rate, callers, duration, warmup, requests, arrivals, find_capacity)
    schedule_random, lists_random = random_sources(seed)
    lists = _lists(file, passages, words, identical, lists_random)
    answer_s = _option("--timeout", parse_duration, timeout)
    tried = attempts or (_OPEN_ATTEMPTS if schedule.kind == "open" else _CLOSED_ATTEMPTS)
    if deadline is not None:
        options["deadline_s"] = _option("--deadline", parse_duration, deadline)
    tenants, models = _who(tenant or [], model or [], api_key)

    # From here on it takes libraries that the other commands need not wait for.
    from dear_tools.load.loadtest import LoadTest
    from dear_tools.load.report import check_folder
    from dear_tools.load.session import Session

    check_folder(out)
    base_url, mix = probe(url, tenants or [(Tenant("default", api_key), 1.0)], models, zipf_s, answer_s)
    timeouts = Timeout(connect_s=min(_CONNECT_S, answer_s), answer_s=answer_s, total_s=10 * answer_s)
    test = LoadTest(
        Terms(base_url, timeouts, Retry(attempts=tried)), mix, lists, wanted, options, schedule_random
    )
    session = Session(test, schedule, seed, out)
    if find_capacity:
        session.find_capacity()
    else:
        session.run()
    if as_json:
        typer.echo(json.dumps(session.data))
    else:
        session.show()
    raise typer.Exit(session.exit_code(is_asked=objective is not None))


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
    if find_capacity and (callers is not None or requests is not None):
        raise typer.BadParameter("--find-capacity raises a rate, each for --duration; give --rate or nothing")
    duration_s = _option("--duration", parse_duration, duration)
    warmup_s = _option("--warmup", lambda given: parse_duration(given, may_be_none=True), warmup)
    name, text = ("--callers", callers) if callers is not None else ("--rate", rate)
    if text is None:
        name, text = ("--rate", "1") if find_capacity else ("--callers", _CALLERS)
    stages = _option(name, lambda given: parse_stages(given, duration_s), text)
    if name == "--callers" and any(one % 1 for stage in stages for one in (stage.start, stage.end)):
        raise typer.BadParameter(f"{text!r}: whole callers are needed", param_hint=name)
    if find_capacity and (len(stages) > 1 or stages[0].start != stages[0].end):
        raise typer.BadParameter("--find-capacity starts from one rate", param_hint="--rate")
    return Schedule("open" if name == "--rate" else "closed", stages, kinds[arrivals], requests, warmup_s)


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


def _who(
    tenants: Sequence[str], models: Sequence[str], api_key: str | None
) -> tuple[list[tuple[Tenant, float]], list[tuple[str, float]]]:
    """Tenants and models with their weights, as far as the command line says."""
    callers = [_option("--tenant", parse_tenant, text) for text in tenants]
    wanted = [_option("--model", parse_weighted, text) for text in models]
    if callers and api_key is not None:
        raise typer.BadParameter(
            "tenants bring keys of their own; leave --api-key out", param_hint="--tenant"
        )
    if len(wanted) > 1 and ALL in (name for name, _ in wanted):
        raise typer.BadParameter(f"{ALL} is every model already; give it alone", param_hint="--model")
    for option, names in (
        ("--tenant", [tenant.name for tenant, _ in callers]),
        ("--model", [name for name, _ in wanted]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                raise typer.BadParameter(f"{name!r} is given {count} times", param_hint=option)
    return callers, wanted


def _option(name: str, parse: Callable[[str], T], text: str) -> T:
    """An option's value, or a usage error that names the option."""
    try:
        return parse(text)
    except ToolError as error:
        raise typer.BadParameter(str(error), param_hint=name) from None
