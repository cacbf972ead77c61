"""One command: evaluations one after another, each shown when it ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import typer

from dear_client import AsyncClient, RerankOptions, Timeout
from dear_tools.evaluation.collection import Collection, collect
from dear_tools.evaluation.evaluation import RUN, Evaluation, how_far
from dear_tools.evaluation.measures import default_measures, parse_measures
from dear_tools.evaluation.presets import CARD, Preset, chosen
from dear_tools.evaluation.rankers import FixedRanker, Ranker, ServerRanker, by_judgements, by_run
from dear_tools.evaluation.render import failure_sentence, say, show, show_together
from dear_tools.evaluation.report import Report, as_json
from dear_tools.evaluation.sources import Source
from dear_tools.evaluation.stages import show_stages, stage_options
from dear_tools.evaluation.trec import Run, read_run
from dear_tools.exits import PARTLY, ToolError
from dear_tools.progress import progress
from dear_tools.wording import named, queries

INTERRUPTED = 130
_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Request:
    """The command line, in one value; None where it says nothing."""

    source: Source
    options: RerankOptions
    preset: str | None = None
    data: Path = Path()
    depth: int | None = None
    limit: int | None = None
    ranker: str = "server"
    against: Path | None = None
    relevant_from: int | None = None
    measures: tuple[str, ...] = ()
    out: Path | None = None
    restart: bool = False
    calibration: bool = False
    stages: bool = False
    concurrency: int = 8
    timeout_s: float = 120.0
    url: str | None = None
    api_key: str | None = None


def run_session(request: Request, *, is_json: bool) -> int:
    """Evaluate, and show the results; returns the exit code.

    Raises:
        ToolError: one sentence about what is wrong.
    """
    reports: list[Report] = []
    for evaluation in evaluations(request):
        for warning in evaluation.collection.warnings:
            say(warning)
        try:
            report = _run(evaluation, request.restart)
        except _Interrupted as stopped:
            say(f"stopped: {stopped}")
            return INTERRUPTED
        for warning in report.warnings[len(evaluation.collection.warnings) :]:
            say(warning)
        if report.failed:
            say(failure_sentence(report))
        if not is_json:
            show(report)
            typer.echo(f"report, run and answers are in {evaluation.folder}")
        reports.append(report)
    if is_json:
        several = request.preset == CARD or request.stages
        typer.echo(as_json(reports if several else reports[0]), nl=False)
    elif request.preset == CARD:
        show_together(reports)
    elif request.stages:
        show_stages(reports)
    return PARTLY if any(report.failed for report in reports) else 0


def evaluations(request: Request) -> Iterator[Evaluation]:
    """The evaluations that a request comes to, each with its files read when its turn comes; of stages, the
    first one's run is written by then.

    Raises:
        ToolError: a file, a preset or a measure is wrong.
    """
    if request.stages:
        yield from _stages(request)
        return
    if request.preset is None:
        yield _evaluation(request, None, request.source, "", request.out)
        return
    presets = chosen(request.preset)
    sources = {name: preset.source(request.data) for name, preset in presets.items()}
    missing = {name: preset for name, preset in presets.items() if sources[name] is None}
    if len(missing) == len(presets):
        name, preset = next(iter(missing.items()))
        raise ToolError(f"preset {name}: {preset.missing(request.data)}; {preset.published_in}")
    for name, preset in missing.items():
        say(f"preset {name} is left out: {preset.missing(request.data)}")
    for where in dict.fromkeys(preset.published_in for preset in missing.values()):
        say(f"where such files are published: {where}")
    for name, source in sources.items():
        if source is not None:
            out = request.out or Path(f"eval-{request.preset}")
            yield _evaluation(
                request, presets[name], source, name, out / name if request.preset == CARD else out
            )


def _stages(request: Request) -> Iterator[Evaluation]:
    """The same candidates ranked by each stage, in folders of their own; compared with the listwise order."""
    (whole,) = evaluations(replace(request, stages=False))
    listwise: tuple[str, Mapping[str, tuple[str, ...]]] | None = None
    for stage, options in stage_options(request.options).items():
        folder = whole.folder / stage
        ranker, _ = _ranker(replace(request, options=options), _preset(request), whole.collection)
        yield replace(
            whole,
            collection=replace(whole.collection, name=f"{whole.collection.name}, {stage}"),
            ranker=ranker,
            folder=folder,
            against=listwise,
        )
        if listwise is None and (folder / RUN).is_file():
            listwise = (stage, read_run(folder / RUN).orders)


def _preset(request: Request) -> Preset | None:
    return None if request.preset is None else chosen(request.preset)[request.preset]


class _Interrupted(Exception):
    """Ctrl-C came; how far the ranking was."""


def _run(evaluation: Evaluation, restart: bool) -> Report:
    ranked = 0
    total = len(evaluation.collection.topics)
    with progress(evaluation.collection.name, total) as show_progress:

        def tell(done: int, failed: int) -> None:
            nonlocal ranked
            ranked = done
            show_progress(done, failed)

        try:
            return asyncio.run(evaluation.run(tell, restart=restart))
        except KeyboardInterrupt:
            raise _Interrupted(how_far(ranked, total)) from None


def _evaluation(
    request: Request, preset: Preset | None, source: Source, name: str, out: Path | None
) -> Evaluation:
    collection = _collection(request, preset, source, name)
    relevant_from = request.relevant_from or (1 if preset is None else preset.relevant_from)
    against = None
    if request.against is not None:
        found = read_run(request.against)
        against = (request.against.name, found.orders)
        collection = _with_warnings(
            collection, [*found.warnings, *_lacking(found, request.against, collection)]
        )
    ranker, warnings = _ranker(request, preset, collection)
    collection = _with_warnings(collection, warnings)
    return Evaluation(
        collection=collection,
        ranker=ranker,
        measures=parse_measures(request.measures or default_measures(collection.depth), relevant_from),
        folder=out or Path(f"eval-{collection.name}"),
        against=against,
        published=() if preset is None else preset.published,
        has_cost=isinstance(ranker, ServerRanker),
        calibration=request.calibration,
    )


def _collection(request: Request, preset: Preset | None, source: Source, name: str) -> Collection:
    depth = request.depth or (_DEPTH if preset is None else preset.depth)
    loaded = source.load(depth)
    return collect(
        name or loaded.name,
        loaded.topics,
        loaded.qrels,
        depth=depth,
        limit=request.limit,
        first_stage="first stage" if preset is None else preset.first_stage,
        warnings=loaded.warnings,
    )


def _ranker(request: Request, preset: Preset | None, collection: Collection) -> tuple[Ranker, Sequence[str]]:
    """The ranker that a request names, and warnings about it."""
    match request.ranker:
        case "server":
            given = {name: value for name, value in request.options.items() if value is not None}
            if request.calibration:
                given["confidence"] = True
            windows = {} if preset is None else preset.windows.model_dump()
            options = cast(RerankOptions, {**windows, **given})
            timeout = Timeout(answer_s=request.timeout_s, total_s=2.5 * request.timeout_s)
            return ServerRanker(
                lambda: AsyncClient(request.url, request.api_key, timeout=timeout),
                options,
                request.concurrency,
            ), ()
        case "oracle":
            return FixedRanker("oracle", by_judgements(collection.qrels), _digest(collection.qrels)), ()
        case "first-stage":
            return FixedRanker("first-stage", lambda topic: topic.order), ()
        case path:
            run = read_run(Path(path))
            name = Path(path).name
            return FixedRanker(name, by_run(run, name), _digest(run.orders)), run.warnings


def _lacking(run: Run, path: Path, collection: Collection) -> list[str]:
    lost = [query for query in collection.qrels if query not in run.orders]
    return (
        [f"{path.name} lacks {queries(len(lost))}, which count as zero there: {named(lost)}"] if lost else []
    )


def _with_warnings(collection: Collection, more: Sequence[str]) -> Collection:
    return replace(collection, warnings=(*collection.warnings, *more))


def _digest(value: Mapping[str, object]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()}"
